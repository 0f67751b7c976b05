"""The small models of `traps`: one for each thing that per-sample gradient engines get wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES, SAMPLES, WIDTH = 3, 4, 6


class Custom(nn.Module):
    """A model made of submodules, parameters and a function of them."""

    def __init__(self, function: Callable[..., Tensor], **members: Any) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@dataclass(frozen=True)
class Trap:
    """A model and the batches it is given in turn.

    Attributes:
        group: What it is about.
        name: Of its row.
        build: Makes the model.
        draw: Makes the batches.
        refuse: Why the only right answer is a refusal, or empty.
    """

    group: str
    name: str
    build: Callable[[], nn.Module]
    draw: Callable[[], list[Tensor]]
    refuse: str = ""

    def make(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, list[Tensor]]:
        """The model in eval mode and its batches; the same ones every time."""
        torch.manual_seed(0)
        model = self.build().double()
        with torch.no_grad():
            for p in model.parameters():  # no gradient is zero by accident
                p.add_(0.2 * torch.randn_like(p))
            for name, buffer in model.named_buffers():
                if "running" in name:
                    buffer.uniform_(0.5, 1.5)
        batches = self.draw()
        return model.to(dtype).eval(), [
            b.to(dtype) if b.is_floating_point() else b for b in batches
        ]


def numbers(*shape: int) -> Callable[[], list[Tensor]]:
    return lambda: [torch.randn(SAMPLES, *shape, dtype=torch.float64)]


def _words() -> list[Tensor]:
    ids = torch.randint(1, 9, (SAMPLES, 5))
    ids[:, 1] = ids[:, 0]
    ids[:, 4] = 0
    return [ids]


def _model(function: Callable[..., Tensor], inputs: int = WIDTH, **members: Any) -> nn.Module:
    return Custom(function, **members, head=nn.Linear(inputs, CLASSES))


def _pooled(module: nn.Module, channels: int) -> nn.Module:
    """A module on channels-first data, a nonlinearity, a mean over positions and a head."""
    return _model(
        lambda m, x: m.head(torch.tanh(m.layer(x)).flatten(2).mean(2)), channels, layer=module
    )


def tokens_model(function: Callable[..., Tensor], **members: Any) -> nn.Module:
    """Something between a linear layer on tokens [N, T, D] and a head on their mean."""
    return _model(
        lambda m, x: m.head(torch.tanh(function(m, m.mix(x))).flatten(1, -2).mean(1)),
        mix=nn.Linear(WIDTH, WIDTH),
        **members,
    )


def conv_traps() -> list[Trap]:
    def conv(name: str, build: Callable[[], nn.Module], channels: int, *shape: int) -> Trap:
        return Trap("convolution", name, lambda: _pooled(build(), channels), numbers(*shape))

    return [
        conv("grouped", lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), 6, 4, 5, 5),
        conv("depthwise", lambda: nn.Conv2d(4, 8, 3, groups=4), 8, 4, 5, 5),
        *(
            conv(
                f"padding_mode={mode!r}",
                lambda mode=mode: nn.Conv2d(2, 4, 3, padding=1, padding_mode=mode),  # type: ignore[misc]
                4, 2, 5, 5,
            )
            for mode in ("reflect", "circular", "replicate")
        ),
        conv(
            "padding='same', even kernel, dilated",
            lambda: nn.Conv2d(2, 4, (4, 2), padding="same", dilation=(1, 3)), 4, 2, 7, 7,
        ),
        conv(
            "transposed, grouped, output padding",
            lambda: nn.ConvTranspose2d(4, 4, 3, stride=2, groups=2, output_padding=1), 4, 4, 3, 3,
        ),
        conv("1-D, strided", lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), 4, 3, 9),
        conv("3-D, grouped", lambda: nn.Conv3d(2, 4, 2, groups=2), 4, 2, 4, 3, 4),
    ]  # fmt: skip


def _more_dimensions() -> list[Tensor]:
    """Tensors kept from the first batch do not suit the second."""
    return [torch.randn(SAMPLES, *s, WIDTH, dtype=torch.float64) for s in ((5,), (3, 4))]


def _varied_lengths() -> list[Tensor]:
    return [torch.randn(SAMPLES, t, WIDTH, dtype=torch.float64) for t in (5, 3, 8)]


def _cancelling() -> nn.Module:
    def function(m: Any, x: Tensor) -> Tensor:
        y = m.body(torch.cat([x, x + 2**-10], 1))
        return m.head(torch.tanh(y[:, 0] - y[:, 1]) + 0.1 * x[:, 0])

    return _model(function, 64, body=nn.Linear(64, 64))


def linear_traps() -> list[Trap]:
    body = lambda m, x: m.body(x)  # noqa: E731

    def tokens() -> nn.Module:
        return tokens_model(body, body=nn.Linear(WIDTH, WIDTH))

    return [
        Trap("linear", "inputs [N, T, D]", tokens, numbers(5, WIDTH)),
        Trap("linear", "inputs [N, T, D], then [N, H, W, D]", tokens, _more_dimensions),
        Trap("linear", "lengths that vary from batch to batch", tokens, _varied_lengths),
        Trap("linear", "LayerNorm at every token",
             lambda: tokens_model(lambda m, x: m.norm(x), norm=nn.LayerNorm(WIDTH)),
             numbers(5, WIDTH)),
        Trap("linear", "tokens whose gradients nearly cancel", _cancelling, numbers(1, 64)),
    ]  # fmt: skip


class _OwnNorm(nn.LayerNorm):
    """A subclass, as model libraries have them."""


def norm_traps() -> list[Trap]:
    def trailing(name: str, build: Callable[[], nn.Module]) -> Trap:
        make = lambda: tokens_model(lambda m, x: m.norm(x), norm=build())  # noqa: E731
        return Trap("norm", name, make, numbers(5, WIDTH))

    def channels(name: str, build: Callable[[], nn.Module], refuse: str = "") -> Trap:
        make = lambda: _pooled(nn.Sequential(nn.Conv2d(2, 4, 3), build()), 4)  # noqa: E731
        return Trap("norm", name, make, numbers(2, 5, 5), refuse)

    return [
        trailing("LayerNorm(bias=False)", lambda: nn.LayerNorm(WIDTH, bias=False)),
        trailing("RMSNorm", lambda: nn.RMSNorm(WIDTH)),
        trailing("subclass of LayerNorm", lambda: _OwnNorm(WIDTH)),
        channels("GroupNorm", lambda: nn.GroupNorm(2, 4)),
        channels("InstanceNorm2d(affine=True)", lambda: nn.InstanceNorm2d(4, affine=True)),
        channels("BatchNorm2d in eval mode, trainable", lambda: nn.BatchNorm2d(4)),
        channels(
            "BatchNorm2d without running statistics",
            lambda: nn.BatchNorm2d(4, track_running_stats=False),
            refuse="its scores depend on the other samples",
        ),
    ]


def embedding_traps() -> list[Trap]:
    def bag(embed: nn.Module) -> nn.Module:
        return _model(lambda m, x: m.head(torch.tanh(m.embed(x).sum(1))), embed=embed)

    def tied(m: Any, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(m.embed(x).mean(1)), m.embed.weight)[:, :CLASSES]

    def positions(m: Any, x: Tensor) -> Tensor:
        return x + m.position(torch.arange(x.shape[1]))

    def located(length: int) -> nn.Module:
        return tokens_model(positions, position=nn.Embedding(length, WIDTH))

    return [
        Trap("embedding", "padding_idx",
             lambda: bag(nn.Embedding(9, WIDTH, padding_idx=0)), _words),
        Trap("embedding", "repeated tokens", lambda: bag(nn.Embedding(9, WIDTH)), _words),
        Trap("embedding", "tied to the head",
             lambda: Custom(tied, embed=nn.Embedding(9, WIDTH)), _words),
        Trap("embedding", "positions without a batch dimension", lambda: located(5),
             numbers(5, WIDTH)),
        Trap("embedding", "positions, as many as samples", lambda: located(SAMPLES),
             numbers(SAMPLES, WIDTH)),
    ]  # fmt: skip
