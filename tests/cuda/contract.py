"""Models of the contract, small: each is scored on the emulated device and against float64."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

HALF = {"autocast": torch.bfloat16}
VERIFIED = {"verify": True}


class Case(NamedTuple):
    """One model with inputs and options.

    Attributes:
        make: The model.
        inputs: Its batch.
        options: Of the scorer.
        tolerance: Of the scores, relative; above it float32 itself is to blame.
        waits: For the device, in a pass: what a branch of the model or a round of draws reads.
        deterministic: Whether PyTorch is asked for deterministic algorithms.
        repeats: Whether a batch takes the branches of earlier ones.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    options: Mapping[str, Any] = {}
    tolerance: float = 2e-6
    waits: int = 0
    deterministic: bool = False
    repeats: bool = True


class Model(nn.Module):
    """`forward(self, x)` over some parts."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def images(*shape: int) -> Callable[[], Any]:
    return lambda: torch.randn(shape)


def ids() -> Any:
    return torch.randint(1, 9, (3, 5))


def positions(classes: int = 3) -> nn.Module:
    layers = nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Flatten(), nn.Linear(25, classes)
    return nn.Sequential(*layers)


def norms() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.Flatten(),
        nn.LayerNorm(64),
        nn.RMSNorm(64),
        nn.Linear(64, 3),
    )


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 2, dilation=2, padding="same"),
        nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def other_dimensions() -> nn.Module:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        line = self.one(x.flatten(2))
        block = self.three(x.unsqueeze(2))
        return self.head(torch.cat([line.mean(2), block.mean((2, 3, 4))], 1))

    parts = {"one": nn.Conv1d(3, 4, 3, stride=2), "three": nn.Conv3d(3, 4, (1, 3, 3), padding=1)}
    return Model(forward, **parts, head=nn.Linear(8, 3))


def attention(kind: str, size: int = 8) -> Callable[[], nn.Module]:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        t = x.shape[1]
        options: dict[str, Any] = {
            "none": dict,
            "causal": lambda: {"is_causal": True},
            "bool": lambda: {
                "attn_mask": torch.ones(t, t, dtype=torch.bool, device=x.device).tril()
            },
            "padded": lambda: {"attn_mask": (x[..., 0] < 1)[:, None, None, :]},
            "float": lambda: {"attn_mask": (x @ x.mT)[:, None].detach()},
            "learned": lambda: {"attn_mask": self.bias(x).mT[:, None]},
            "scale": lambda: {"scale": 2.0},
        }[kind]()
        x = F.scaled_dot_product_attention(q, k, v, **options)
        return self.head(x.transpose(1, 2).flatten(2).mean(1))

    def make() -> nn.Module:
        parts = {"norm": nn.LayerNorm(6), "qkv": nn.Linear(6, 3 * size), "bias": nn.Linear(6, 1)}
        if kind != "learned":
            del parts["bias"]
        return Model(forward, **parts, head=nn.Linear(size, 3))

    return make


def multi_head(weights: bool) -> Callable[[], nn.Module]:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        padding = x[..., 0] > 1
        x, _ = self.attend(x, x, x, key_padding_mask=padding, need_weights=weights)
        return self.head(x.mean(1))

    attend = partial(nn.MultiheadAttention, 6, 2, batch_first=True)
    return lambda: Model(forward, attend=attend(), head=nn.Linear(6, 3))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(30, 3))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"vocab_size": 9, "intermediate_size": 12, "max_position_embeddings": 6}
    return BertForSequenceClassification(BertConfig(**sizes, **more, num_labels=3))


def texts(padded: slice) -> Callable[[], dict[str, torch.Tensor]]:
    def make() -> dict[str, torch.Tensor]:
        mask = torch.ones(3, 5, dtype=torch.int64)
        mask[padded, 3:] = 0
        return {"input_ids": ids(), "attention_mask": mask}

    return make


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"image_size": 8, "patch_size": 4, "intermediate_size": 12, "num_labels": 3}
    return ViTForImageClassification(ViTConfig(**sizes, **more))


def swin() -> nn.Module:
    from transformers import SwinConfig, SwinForImageClassification

    sizes = {"embed_dim": 4, "depths": [2], "num_heads": [2], "mlp_ratio": 2.0}
    more = {"image_size": 8, "patch_size": 2, "window_size": 2, "num_labels": 3}
    return SwinForImageClassification(SwinConfig(**sizes, **more))


def recurrent() -> nn.Module:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(x))[0][:, -1])

    parts = {"embed": nn.Embedding(9, 4, padding_idx=1), "body": nn.LSTM(4, 5, batch_first=True)}
    return Model(forward, **parts, head=nn.Linear(5, 3))


def pooled() -> nn.Module:
    """Instance norms and a max pool, each behind a convolution."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.InstanceNorm2d(4, affine=True),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.InstanceNorm2d(4, affine=True),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def tied() -> nn.Module:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.body(torch.tanh(self.body(self.embed(x)))))
        return self.head(x).mean(1)

    parts = {"embed": nn.Embedding(9, 6), "body": nn.Linear(6, 6)}
    model = Model(forward, **parts, head=nn.Linear(6, 9, bias=False))
    model.head.weight = model.embed.weight
    return model


def leftover() -> nn.Module:
    """A parameter that no rule accounts for."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.head(x * self.gain.weight.cos()[0])

    return Model(forward, gain=nn.Linear(6, 1), head=nn.Linear(6, 3))


def written(kind: str) -> Callable[[], nn.Module]:
    """Features of each group are written where the group begins, by numbers that the host has."""

    def of_one(self: Any, x: torch.Tensor) -> torch.Tensor:
        numbers = x.detach()[..., 0].sort().indices[..., :2].flatten()
        if kind == "counts":
            counts = F.one_hot(numbers, 5).sum(0).cpu()
            ends = torch.cat((torch.zeros(1, dtype=torch.long, device="cpu"), counts.cumsum(0)))
            bounds = [*zip(ends[:-1], ends[1:], strict=True)]  # noqa: RUF007
        else:
            found = torch.zeros(5, dtype=torch.bool, device="cpu")
            found[numbers.cpu()] = True
            numbers = found.to(x.device).nonzero()[:, 0]
            bounds = [(n, n + 1) for n in range(len(numbers))]
        rows, output = x.flatten(0, 1)[numbers], x.new_zeros(len(numbers), 8)
        for start, end in bounds:
            output[start:end] = self.body(rows[start:end])
        return self.head(output.tanh().mean(0, keepdim=True))

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([of_one(self, row) for row in x.split(1)])

    return lambda: Model(forward, body=nn.Linear(6, 8), head=nn.Linear(8, 3))


def dense() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))


VECTORS, SEQUENCES, IMAGES = images(3, 6), images(3, 5, 6), images(3, 3, 6, 6)
CASES = {
    "mlp": Case(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), VECTORS, VERIFIED
    ),
    "two classes": Case(lambda: positions(2), SEQUENCES),
    "one logit": Case(lambda: positions(1), SEQUENCES),
    "per tensor": Case(positions, SEQUENCES, {"reduction": "per_tensor"}),
    "torch": Case(positions, SEQUENCES, {"backend": "torch"}),
    "float64": Case(lambda: norms().double(), lambda: IMAGES().double(), tolerance=1e-10),
    "convolutions": Case(convolutions, images(3, 4, 6, 6)),
    "convolutions, torch": Case(convolutions, images(3, 4, 6, 6), {"backend": "torch"}),
    "other dimensions": Case(other_dimensions, IMAGES, VERIFIED),
    "norms": Case(norms, IMAGES, tolerance=1e-5),
    **{
        f"attention {kind}": Case(attention(kind), SEQUENCES)
        for kind in ("none", "causal", "bool", "padded", "float", "learned", "scale")
    },
    "attention, heads of three": Case(attention("float", 6), SEQUENCES),
    "attention with weights": Case(multi_head(True), SEQUENCES),
    "attention without": Case(multi_head(False), SEQUENCES),
    "encoder": Case(encoder, SEQUENCES, VERIFIED),
    # Whether a mask is all ones: read and compared; samples that differ are split, and read again.
    "bert": Case(bert, texts(slice(None)), waits=2),
    "bert, some padded": Case(bert, texts(slice(1, 2)), waits=8),
    "vit": Case(vit, images(3, 3, 8, 8)),
    "swin": Case(swin, images(3, 3, 8, 8)),
    "lstm": Case(recurrent, ids, VERIFIED),
    "tied": Case(tied, ids),
    "leftover": Case(leftover, VECTORS),
    "written, counts of the host": Case(written("counts"), SEQUENCES, waits=17, repeats=False),
    "written, flags of the host": Case(written("flags"), SEQUENCES, waits=4),
    "dense": Case(dense, IMAGES, {"num_samples": 2}),
    "dense, one draw a map": Case(dense, images(2, 3, 1, 2), {"num_samples": 9}),
    "bernoulli": Case(lambda: positions(4), SEQUENCES, {"likelihood": "bernoulli"}),
    "rtol": Case(lambda: positions(12), SEQUENCES, {"rtol": 1e-9}, waits=2),
    "rtol, the same bits": Case(
        lambda: positions(12), SEQUENCES, {"rtol": 1e-9}, waits=2, deterministic=True
    ),
    "dense, the same bits": Case(dense, IMAGES, {"num_samples": 2}, deterministic=True),
    "last layer": Case(positions, SEQUENCES, {"params": "last_layer"}),
    "last layer, warm": Case(positions, SEQUENCES, {"params": "last_layer", "temperature": 3.0}),
    "half": Case(norms, IMAGES, HALF, tolerance=3e-2),
    "half, pooled": Case(pooled, IMAGES, HALF, tolerance=1e-1),
    "half, tied": Case(tied, ids, HALF, tolerance=3e-2),
    "half, convolutions": Case(convolutions, images(3, 4, 6, 6), HALF, tolerance=3e-2),
    "half, attention": Case(attention("none"), SEQUENCES, HALF, tolerance=3e-2),
    "half, attention float": Case(attention("float"), SEQUENCES, HALF, tolerance=3e-2),
    "half, encoder": Case(encoder, SEQUENCES, HALF, tolerance=3e-2),
    "half, last layer": Case(norms, IMAGES, {**HALF, "params": "last_layer"}, tolerance=3e-2),
    "half, rtol": Case(norms, IMAGES, {**HALF, "rtol": 0.5}, 1.0, waits=2),
}
