"""Random small models, made of layers whose options are drawn and then fitted to what comes in.

A `Spec` is plain data: it prints as the model it makes, and shrinks by losing layers and options.
Two kinds of tensors run through a model: `[N, C, *space]` with channels first, until a `Tokens`
layer or the end, and `[N, T, D]` or `[N, D]` with features last.
"""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support.makers import ACTIVATIONS, MAKERS, Layer, Step

CLASSES = 3
STARTS = {
    "vector": (6,),
    "tokens": (4, 6),
    "ids": (5,),
    "signal": (4, 7),
    "image": (4, 5, 6),
    "volume": (2, 4, 3, 5),
}
WORDS = 7


@dataclass(frozen=True)
class Spec:
    """A whole model."""

    start: str
    layers: tuple[Layer, ...]
    pool: str
    frozen: tuple[int, ...]
    seed: int

    def build(self) -> tuple["Drawn", Tensor]:
        """The model in float64 and inputs of three samples."""
        generator = torch.Generator().manual_seed(self.seed)
        if self.start == "ids":
            x = torch.randint(0, WORDS, (3, *STARTS["ids"]), generator=generator)
        else:
            x = torch.randn(3, *STARTS[self.start], generator=generator, dtype=torch.float64)
        return Drawn(self, x), x


class Drawn(nn.Module):
    """The model of a `Spec`."""

    def __init__(self, spec: Spec, x: Tensor):
        super().__init__()
        self.spec = spec
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(spec.seed)
            self.steps = nn.Sequential()
            self.taken: list[tuple[torch.Size, bool]] = []  # by each step: what came in
            self.first = spec.start not in ("vector", "tokens", "ids")  # channels come first
            if spec.start == "ids":
                x = self.add(nn.Embedding(WORDS, 6, padding_idx=0), x)
            for layer in spec.layers:
                made = self.made(layer, x)
                if made is not None:
                    x = self.add(made, x)
            self.head = nn.Linear(self.pooled(x).shape[1], CLASSES).double()
            for p in self.parameters():
                p.normal_().mul_(p[0].numel() ** -0.5 if p.dim() > 1 else 0.5)
            for name, b in self.named_buffers():
                if name.endswith("running_mean"):
                    b.normal_()
                elif name.endswith("running_var"):
                    b.uniform_(0.5, 1.5)
        body = list(self.steps.parameters())
        for index in spec.frozen:
            if body:
                body[index % len(body)].requires_grad_(False)
        self.eval()

    def add(self, step: nn.Module, x: Tensor) -> Tensor:
        self.taken.append((x.shape, self.first))
        self.steps.append(step.double())
        return step.eval()(x)

    def pooled(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return x
        axes = tuple(range(2, x.dim())) if self.first else 1
        if self.spec.pool == "mean":
            return x.mean(axes)
        if self.spec.pool == "max":
            return x.amax(axes)
        return x.flatten(2)[:, :, 0] if self.first else x[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pooled(self.steps(x)))

    def made(self, layer: Layer, x: Tensor) -> nn.Module | None:
        """The module of a layer for inputs like `x`; None where it does not fit."""
        if layer.kind in ("residual", "twice"):
            return self.nested(layer, x)
        if layer.kind == "again":
            fits = [i for i, taken in enumerate(self.taken) if taken == (x.shape, self.first)]
            return self.steps[fits[0]] if fits else None
        if layer.kind == "tokens":
            if not self.first:
                return None
            self.first = False
            return Step(lambda m, x: x.flatten(2).transpose(1, 2))
        made = MAKERS[layer.kind](layer, x, self.first)
        if made is not None and dict(layer.options).get("inplace"):
            return nn.Sequential(made, nn.LeakyReLU(0.3, inplace=True))
        return made

    def nested(self, layer: Layer, x: Tensor) -> nn.Module | None:
        inner, y, first = nn.Sequential(), x, self.first
        for part in layer.get("layers"):
            made = self.made(part, y) if part.kind != "tokens" else None
            if made is not None:
                made = made.double().eval()
                inner.append(made)
                y = made(y)
        assert self.first == first
        if y.shape != x.shape or not len(inner):
            return inner
        if layer.kind == "twice":
            return Step(lambda m, x: m.inner(torch.tanh(m.inner(x))), inner=inner)
        return Step(lambda m, x: x + m.inner(x), inner=inner)


def layer(kind: str, **options: st.SearchStrategy[Any]) -> st.SearchStrategy[Layer]:
    return st.fixed_dictionaries(options).map(lambda drawn: Layer(kind, tuple(drawn.items())))


def one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


_CONV = {
    "out": one_of(4, 2, 6),
    "kernel": one_of((1,), (3,), (2,), (2, 3), (3, 1), (4, 2)),
    "stride": one_of(1, 2, 3),
    "dilation": one_of(1, 2, 3),
    "groups": one_of(1, 2, 0),  # 0: as many as possible
    "bias": one_of(True, False),
    "inplace": one_of(False, True),
}

plain = st.one_of(
    layer("tokens"),  # first, for failures shrink to it: mostly it does nothing
    layer("linear", out=one_of(4, 6, 3), bias=one_of(True, False), inplace=one_of(False, True),
          way=one_of("module", "matmul", "transposed", "einsum", "tied", "autoencoder", "lora",
                     "norm", "bilinear")),
    layer("activation", function=one_of("tanh", "prelu", *sorted(ACTIVATIONS.keys() - {"tanh"}))),
    layer("norm", bias=one_of(True, False), inplace=one_of(False, True), norm=one_of(
        "layer", "rms", "whole", "batch", "group", "instance", "instance-tracked",
    )),
    layer("parameter", shape=one_of("features", "positions", "scalar", "full"),
          use=one_of("add", "scale", "gate", "expand", "twice")),
    layer("conv", **_CONV, padding=one_of(0, 1, 2, "same"),
          mode=one_of("zeros", "reflect", "replicate", "circular")),
    layer("transposed", **_CONV, padding=one_of(0, 1, 2), output_padding=one_of(0, 1, 2)),
    layer("pooling", pool=one_of("avg", "max")),
    layer("attention", batch_first=one_of(True, False), way=one_of(
        "packed", "weights", "separate", "bias-kv", "relative", "encoder",
    )),
    layer("positions", way=one_of("embedding", "class-token", "mixer", "windows", "gru")),
)  # fmt: skip

layers = st.recursive(
    plain,
    lambda inner: st.builds(
        lambda kind, layers: Layer(kind, (("layers", tuple(layers)),)),
        one_of("residual", "twice"),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=4,
)

specs = st.builds(
    Spec,
    start=one_of(*STARTS),
    layers=st.lists(layers, min_size=3, max_size=6).map(tuple),
    pool=one_of("mean", "max", "first"),
    frozen=st.lists(st.integers(0, 9), max_size=2).map(tuple),
    seed=st.integers(0, 3),
)
