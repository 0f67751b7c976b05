"""The wider grammar: casts, ties, writes in place, buffers, branches, autocast, complex numbers.

Each layer here keeps the shape of what comes in, and works on features wherever they are. A model
may also take several inputs, in a tuple or a mapping.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support import grammar
from tests.support.grammar import Spec, layer, one_of, plain
from tests.support.makers import MAKERS, Layer, Step, channels, raw

# Rounding to a narrow dtype of numbers that differ in their last digit may go either way.
EXACT, CAST, HALF = 1e-8, 1e-4, 0.15


def _dense(m: Any, x: Tensor) -> Tensor:
    return torch.nn.functional.linear(x, m.w, m.b)


CASTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "same": lambda m, x: torch.nn.functional.linear(x, m.w.to(x.dtype), m.b.type_as(x)),
    "double": lambda m, x: torch.nn.functional.linear(x.double(), m.w.double(), m.b.double()),
    "device": lambda m, x: torch.nn.functional.linear(x, m.w.cpu(), torch.as_tensor(m.b)),
    "narrow": lambda m, x: _narrow(m, x),
    "input": lambda m, x: _dense(m, x.float().to(x.dtype)),
    "layer": lambda m, x: m.a(x.to(m.a.weight.dtype)).to(x.dtype),
}


def _narrow(m: Any, x: Tensor) -> Tensor:
    return torch.nn.functional.linear(x.float(), m.w.float(), m.b.float()).to(x.dtype)


def cast(layer: Layer, x: Tensor, first: bool) -> nn.Module:
    size, way = channels(x, first), layer.get("way")
    if way != "layer":
        return _last(CASTS[way], first, w=raw(size, size), b=raw(size))
    step = _last(CASTS[way], first, a=nn.Linear(size, size))
    step.narrow = True  # made float32 when all else has become float64
    return step


def _last(function: Callable[[Any, Tensor], Tensor], first: bool, **parts: Any) -> Step:
    if not first:
        return Step(function, **parts)
    return Step(lambda m, x: function(m, x.movedim(1, -1)).movedim(-1, 1), **parts)


def _canvas(m: Any, x: Tensor) -> Tensor:
    canvas = torch.zeros_like(x)
    canvas[..., :1] += x[..., :1] * m.w[0, 0]
    canvas[..., 1:] = x[..., 1:].sin()
    return canvas + x


def _overwritten(m: Any, x: Tensor) -> Tensor:
    y = x * 1.5
    y[..., 0] = x[..., -1] * m.w[0, 0]
    return y


def _views(m: Any, x: Tensor) -> Tensor:
    y = x * m.w[0, 0]
    y[..., :1].mul_(2).add_(m.b[0])
    return y


IN_PLACE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "canvas": _canvas,
    "overwritten": _overwritten,
    "views": _views,
    "masked": lambda m, x: (x * m.w[0, 0]).masked_fill_(x > 1, 0.5),
    "mask": lambda m, x: _set_mask(x * m.w[0, 0]),
    "clamp": lambda m, x: (x + m.b[0]).clamp_(-2, 2),
    "added": lambda m, x: (x * m.b[0]).add_(x).mul_(m.w[0, 1]),
    "index": lambda m, x: (2 * x).index_add_(-1, torch.tensor([0]), x[..., :1] * m.w[0, 0]),
    "scattered": lambda m, x: (2 * x).scatter_(-1, torch.zeros_like(x[..., :1]).long(), 0.3),
}


def _set_mask(y: Tensor) -> Tensor:
    y[y < 0] = -0.3
    return y


def in_place(layer: Layer, x: Tensor, first: bool) -> nn.Module | None:
    size = channels(x, first)
    return _last(IN_PLACE[layer.get("way")], first, w=raw(2, 2), b=raw(size)) if size > 1 else None


class Buffered(nn.Module):
    """With a scale that is a buffer, a table, and a counter of its calls."""

    def __init__(self, way: str, size: int, first: bool):
        super().__init__()
        self.way, self.first = way, first
        self.weight = raw(size)
        self.register_buffer("scale", 0.5 + torch.rand(size, dtype=torch.float64))
        self.register_buffer("order", torch.arange(size).flip(0), persistent=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        y = x.movedim(1, -1) if self.first else x
        if self.way == "scale":
            y = y * self.scale * self.weight
        elif self.way == "lookup":
            y = y[..., self.order] + self.weight[self.order]
        else:
            self.calls += 1
            self.seen = y.detach()
            y = y + self.weight
        return y.movedim(-1, 1) if self.first else y


BRANCHES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "sign": lambda m, x: _dense(m, x) if x.sum() > 0 else x * m.w[0, 0],
    "any": lambda m, x: x + m.b if (x > 1.5).any() else x,
    "item": lambda m, x: _dense(m, x) if x.flatten()[0].item() > 0 else x.sin(),
    "count": lambda m, x: x * m.w[0, 0] ** int((x.flatten()[:2] > 0).sum()),
    "loop": lambda m, x: _looped(m, x),
    "picked": lambda m, x: x + m.b * x.flatten()[x.flatten() > 0].sum().tanh(),
}


def _looped(m: Any, x: Tensor) -> Tensor:
    for _ in range(1 + int(x.flatten()[0] > 0)):
        x = _dense(m, x).tanh()
    return x


def _autocast(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = m.a(x.to(m.a.weight.dtype))
    return x + 0.3 * y.to(x.dtype)


def _fourier(m: Any, x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x) * m.f, n=x.shape[-1])


COMPLEX: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "size": lambda m, x: (x.to(torch.complex128) @ m.c).abs(),
    "real": lambda m, x: (x * m.c[0]).real + (x @ m.c).imag,
    "pairs": lambda m, x: torch.view_as_real(x @ m.c).sum(-1),
    "angle": lambda m, x: x * torch.polar(torch.ones_like(m.c.real[0]), m.c.real[0]).imag,
    "fourier": _fourier,
}


def number(layer: Layer, x: Tensor, first: bool) -> nn.Module:
    size = channels(x, first)
    make = lambda *shape: nn.Parameter(torch.randn(*shape, dtype=torch.complex128) / 2)  # noqa: E731
    way = layer.get("way")

    def function(m: Any, x: Tensor) -> Tensor:
        return COMPLEX[way](m, x.to(m.c.dtype) if way in ("real", "pairs") else x)

    return _last(function, first, c=make(size, size), f=make(size // 2 + 1))


def _branching(layer: Layer, x: Tensor, first: bool) -> nn.Module:
    size = channels(x, first)
    return _last(BRANCHES[layer.get("way")], first, w=raw(size, size), b=raw(size))


def _cast_on_its_own(layer: Layer, x: Tensor, first: bool) -> nn.Module:
    step = _last(_autocast, first, a=nn.Linear(channels(x, first), channels(x, first)))
    step.narrow = True
    return step


MAKERS.update(
    {
        "cast": cast,
        "in-place": in_place,
        "buffer": lambda layer, x, first: Buffered(layer.get("way"), channels(x, first), first),
        "branch": _branching,
        "autocast": _cast_on_its_own,
        "complex": number,
    }
)

wider = st.one_of(
    layer("cast", way=one_of(*CASTS)),
    layer("in-place", way=one_of(*IN_PLACE)),
    layer("buffer", way=one_of("scale", "lookup", "counter")),
    layer("branch", way=one_of(*BRANCHES)),
    layer("complex", way=one_of(*COMPLEX)),
    layer("autocast", narrow=st.just(True)),
    layer("again"),
)
layers = st.one_of(wider, plain, wider, grammar.layers)


@dataclass(frozen=True)
class WideSpec:
    """A model of the wider grammar, and how its inputs come.

    Attributes:
        spec: The model.
        inputs: `"tensor"`, or a second input in a `"tuple"` or a `"mapping"`.
    """

    spec: Spec
    inputs: str

    @property
    def rtol(self) -> float:
        """What rounding in narrow dtypes may do to scores."""
        kinds = {(part.kind, dict(part.options).get("way")) for part in self._parts()}
        if any(kind == "autocast" for kind, _ in kinds):
            return HALF
        narrow = {("cast", way) for way in ("narrow", "input", "layer")}
        return CAST if kinds & narrow else EXACT

    def _parts(self) -> list[Layer]:
        found, left = [], list(self.spec.layers)
        while left:
            part = left.pop()
            found.append(part)
            left += dict(part.options).get("layers", ())
        return found

    def build(self) -> tuple[nn.Module, Any]:
        """The model, and a batch of three samples."""
        model, x = self.spec.build()
        for step in model.modules():
            if getattr(step, "narrow", False):
                step.a.float()
        if self.inputs == "tensor":
            return model, x
        extra = torch.linspace(-1, 1, 3, dtype=torch.float64)[:, None] * torch.ones(2).double()
        wrapped = TwoInputs(model).eval()
        return wrapped, (x, extra) if self.inputs == "tuple" else {"x": x, "extra": extra}


class TwoInputs(nn.Module):
    """A model and a few numbers beside its input."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.extra = nn.Linear(2, grammar.CLASSES, dtype=torch.float64)

    def forward(self, x: Tensor, extra: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(x) + self.extra(extra).tanh()}


def call(model: nn.Module, batch: Any) -> Tensor:
    """Logits of a batch of any kind."""
    if isinstance(batch, Tensor):
        return model(batch)
    return (model(**batch) if isinstance(batch, dict) else model(*batch))["logits"]


def ones(batch: Any) -> list[Any]:
    """Batches of one."""
    if isinstance(batch, Tensor):
        return list(batch.split(1))
    if isinstance(batch, dict):
        return [{key: x[n : n + 1] for key, x in batch.items()} for n in range(3)]
    return [tuple(x[n : n + 1] for x in batch) for n in range(3)]


specs = st.builds(
    WideSpec,
    spec=st.builds(
        Spec,
        start=one_of(*grammar.STARTS),
        layers=st.lists(layers, min_size=2, max_size=5).map(tuple),
        pool=one_of("mean", "max", "first"),
        frozen=st.lists(st.integers(0, 9), max_size=2).map(tuple),
        seed=st.integers(0, 3),
    ),
    inputs=one_of("tensor", "tensor", "tuple", "mapping"),
)
