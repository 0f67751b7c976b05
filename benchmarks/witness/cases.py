"""Small models and pools in which a planted fault shows as wrong scores."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Call = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Case:
    """A pool, and how it is scored.

    Attributes:
        name: In results.
        make: Makes a model and batches; the seed is set.
        options: Of `score_pool`.
        call: The model on a batch of one, as logits.
        keep: Which parameters count, by name.
    """

    name: str
    make: Callable[[], tuple[nn.Module, list[Any]]]
    options: dict[str, Any] = field(default_factory=dict)
    call: Call = lambda model, batch: model(batch)
    keep: Callable[[str], bool] = lambda name: True


class By(nn.Module):
    """Layers by name, and a function of them and a batch."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module | Tensor) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, nn.Parameter(layer) if isinstance(layer, Tensor) else layer)
        self.by = forward

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.by(self, *args, **kwargs)


def _moved(model: nn.Module) -> nn.Module:
    """No parameter or statistic keeps a value that hides a fault."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() or tensor.is_complex():
                noise = 0.1 * torch.randn_like(tensor)
                tensor.add_(noise.abs() if "var" in name else noise)
    return model


def _pool(model: nn.Module, *shape: int, sizes: tuple[int, ...] = (5, 4)) -> Any:
    return _moved(model).eval(), [torch.randn(size, *shape) for size in sizes]


def _mlp(classes: int = 4, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        body = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.Tanh()]
        return _pool(nn.Sequential(*body, nn.Linear(8, classes, **options)), 6)

    return make


def _images(layers: Callable[[], list[nn.Module]]) -> Callable[[], Any]:
    def make() -> Any:
        head = By(lambda m, x: m.linear(x.flatten(2).tanh().mean(2)), linear=nn.Linear(6, 3))
        return _pool(nn.Sequential(*layers(), head), 4, 8, 7)

    return make


def _function(forward: Callable[..., Tensor], *shape: int, **layers: Any) -> Callable[[], Any]:
    return lambda: _pool(By(forward, **{k: make() for k, make in layers.items()}), *shape)


def _words(forward: Callable[..., Tensor], **layers: Any) -> Callable[[], Any]:
    def make() -> Any:
        model = _moved(By(forward, **{k: make() for k, make in layers.items()})).eval()
        return model, [torch.randint(0, 7, (size, 5)) for size in (5, 4)]

    return make


def _tokens() -> Any:
    model = By(
        lambda m, ids, attention_mask: m.head(torch.tanh(m.embed(ids))),
        embed=nn.Embedding(7, 5), head=nn.Linear(5, 3),
    )  # fmt: skip
    batches = []
    for length in (4, 6):
        valid = torch.arange(length) < torch.tensor([[length], [3], [2], [1]])
        batches.append({"ids": torch.randint(0, 7, (4, length)), "attention_mask": valid.long()})
    return _moved(model).eval(), batches


def _masked() -> Any:
    model = nn.Sequential(nn.Conv1d(2, 5, 1), nn.Tanh(), nn.Conv1d(5, 3, 1))
    masks = [torch.rand(size, 6) < 0.5 for size in (5, 4)]
    for mask in masks:
        mask[:, 0] = True
    return _moved(model).eval(), [(torch.randn(len(mask), 2, 6), mask) for mask in masks]


def _linear(*sizes: int, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(*sizes, **options)


def _numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape, dtype=dtype)


def _alone(m: Any, x: Tensor) -> Tensor:
    return m.head(torch.tanh(m.body(x))) * (1 + 0 * x.sum().item())


def _branches(m: Any, x: Tensor) -> Tensor:
    return m.head(torch.tanh(m.body(x) if bool(x[0, 0] > 0) else m.other(x)))


def _attends(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.packed(x).unflatten(-1, (3, 2, 3)).movedim(2, 0).transpose(-3, -2)
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    made = F.scaled_dot_product_attention(q, k, v, seen, scale=0.9)
    return m.head(torch.tanh(made).mean((1, 2)))


def _grouped(m: Any, x: Tensor) -> Tensor:
    q, k = m.queries(x).unflatten(-1, (4, 3)).mT.mT, m.keys(x).unflatten(-1, (2, 3))
    q, k = q.transpose(-3, -2), k.transpose(-3, -2)
    made = F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    return m.head(torch.tanh(made).mean((1, 2)))


def _tied(m: Any, ids: Tensor) -> Tensor:
    return F.linear(torch.tanh(m.mix(m.words(ids))).mean(1), m.words.weight)


def _frames(m: Any, x: Tensor) -> Tensor:
    frames = m.norm(m.conv(x.flatten(0, 1)[:, None]))
    return m.head(torch.tanh(frames).flatten(2).mean(2).view(len(x), -1))


def _solved(m: Any, x: Tensor) -> Tensor:
    A = x[:, None] * m.a + 6 * torch.eye(3)
    solution = torch.linalg.solve(A, m.b.expand(len(x), 3, 2), left=True)
    other = torch.linalg.solve(A, m.c.expand(len(x), 2, 3), left=False)
    return (
        m.head(torch.cat([solution.flatten(1), other.flatten(1)], 1)) + A.det()[:, None] / 200 * m.d
    )


def _both(m: Any, x: Tensor) -> Tensor:
    return torch.tanh(x @ m.square) @ m.square.T


def _multiplied(m: Any, x: Tensor) -> Tensor:
    left = torch.matmul(m.left, x[:, :, None])[..., 0]
    added = torch.addmm(m.bias, left, m.right, alpha=0.5, beta=2)
    return m.head(torch.tanh(added + torch.einsum("ni,io->no", x, m.left) + _both(m, x)))


_BERNOULLI = {"likelihood": "bernoulli"}
_HEAD = {"params": "last_layer"}


def _is_head(name: str) -> bool:
    return name.startswith(("head", "4."))


CASES: tuple[Case, ...] = (
    Case("classes", _mlp()),
    Case("two classes", _mlp(2)),
    Case("one logit", _mlp(1)),
    Case("temperature, norms added", _mlp(), {"temperature": 2.5, "reduction": "per_tensor"}),
    Case("last layer", _mlp(), {**_HEAD, "temperature": 2.5}, keep=_is_head),
    Case("last layer, one logit", _mlp(1), {**_HEAD, "reduction": "per_tensor"}, keep=_is_head),
    Case("last layer, no bias", _mlp(bias=False), _HEAD, keep=_is_head),
    Case("all classes in rounds", _mlp(7), {"rtol": 1e-12, "temperature": 0.5}),
    Case("small chunks", _mlp(), {"max_memory": 30_000}),
    Case("labels", _mlp(3), {**_BERNOULLI, "num_samples": 8}),
    Case("slow loop, last layer", _function(_alone, 6, body=_linear(6, 5), head=_linear(5, 3)),
         _HEAD, keep=_is_head),
    Case("branches", _function(_branches, 6, body=_linear(6, 5), other=_linear(6, 5),
                               head=_linear(5, 3))),
    Case("masked positions", _masked, {"mask": lambda batch: batch[1]}),
    Case("masked labels", _masked, {"mask": lambda batch: batch[1], **_BERNOULLI}),
    Case("tokens", _tokens, {"class_dim": -1}, lambda model, batch: model(**batch)),
    Case("convolutions", _images(lambda: [
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(8, eps=0.1), nn.GELU(),
        nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 6, 2, padding="same", dilation=2), nn.GroupNorm(3, 6)
    ])),
    Case("transposed convolution", _images(lambda: [
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), nn.PReLU(6),
        nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
    ])),
    Case("instance norm", _images(lambda: [
        nn.Conv2d(4, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.Tanh()])),
    Case("frames", _function(_frames, 2, 6, 5, conv=lambda: nn.Conv2d(1, 3, 3),
                             norm=lambda: nn.BatchNorm2d(3), head=_linear(6, 3))),
    Case("attention", _function(_attends, 5, 6, packed=_linear(6, 18), head=_linear(3, 3))),
    Case("grouped attention", _function(_grouped, 5, 6, queries=_linear(6, 12), keys=_linear(6, 6),
                                        head=_linear(3, 3))),
    Case("layer norm", _function(lambda m, x: m.head(m.norm(m.body(x)).tanh()), 6,
                                 body=_linear(6, 5), norm=lambda: nn.LayerNorm(5, eps=0.1),
                                 head=_linear(5, 3))),
    Case("tied words", _words(_tied, words=lambda: nn.Embedding(7, 4), mix=_linear(4, 4))),
    Case("tied and padded words", _words(_tied, words=lambda: nn.Embedding(7, 4, padding_idx=2),
                                         mix=_linear(4, 4))),
    Case("padded words", _words(
        lambda m, ids: m.head(torch.tanh(F.embedding(ids, m.words, padding_idx=-1)).mean(1)),
        words=_numbers(7, 4), head=_linear(4, 3))),
    Case("bags", _words(lambda m, ids: m.head(torch.tanh(m.bag(ids))),
                        bag=lambda: nn.EmbeddingBag(7, 4, padding_idx=2), head=_linear(4, 3))),
    Case("LSTM", _function(lambda m, x: m.head(m.lstm(x)[0].mean(1)), 4, 6, head=_linear(8, 3),
                           lstm=lambda: nn.LSTM(6, 4, bidirectional=True, batch_first=True))),
    Case("GRU", _function(lambda m, x: m.head(m.gru(x)[0].mean(1)), 4, 6, head=_linear(4, 3),
                          gru=lambda: nn.GRU(6, 4, batch_first=True))),
    Case("equations", _function(_solved, 3, a=_numbers(3, 3), b=_numbers(3, 2), c=_numbers(2, 3),
                                d=_numbers(3), head=_linear(12, 3))),
    Case("products", _function(_multiplied, 6, left=_numbers(6, 6), right=_numbers(6, 6),
                               square=_numbers(6, 6), bias=_numbers(6), head=_linear(6, 3))),
    Case("two inputs of one", _function(lambda m, x: m.head(m.both(x[:, :3], x[:, 3:])), 6,
                                        both=lambda: nn.Bilinear(3, 3, 4), head=_linear(4, 3))),
    Case("distances", _function(lambda m, x: m.head(torch.cdist(x[:, None], m.centers, 1.0)[:, 0]),
                                6, centers=_numbers(4, 6), head=_linear(4, 3))),
    Case("leftovers", _function(lambda m, x: m.head(torch.tanh(m.body(x) * m.gain.exp())), 6,
                                body=_linear(6, 5), gain=_numbers(5), head=_linear(5, 3))),
    Case("pieces", _function(
        lambda m, x: m.head(torch.tanh(x @ m.packed[:, :4] + x @ m.packed[:, 4:])), 6,
        packed=_numbers(6, 8), head=_linear(4, 3)), {"reduction": "per_tensor"}),
    Case("casts", _function(lambda m, x: m.head(F.linear(x, m.w.to(x.dtype)).tanh()), 6,
                            w=_numbers(5, 6), head=_linear(5, 3))),
    Case("complex numbers", _function(
        lambda m, x: m.head((x.to(m.w.dtype) @ m.w).abs()), 6,
        w=_numbers(6, 4, dtype=torch.cfloat), head=_linear(4, 3))),
    Case("in place", _function(lambda m, x: m.head(m.body(x.mul_(2)).tanh()), 6,
                               body=_linear(6, 5), head=_linear(5, 3)), {"rtol": 1e-12}),
)  # fmt: skip
