"""Layers as plain data, and the module each makes for what comes in; None where none fits."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """One layer: what kind, and its options."""

    kind: str
    options: tuple[tuple[str, Any], ...] = ()

    def __repr__(self) -> str:
        return f"{self.kind}({', '.join(f'{k}={v!r}' for k, v in self.options)})"

    def get(self, name: str) -> Any:
        return dict(self.options)[name]


Forward = Callable[[nn.Module, Tensor], Tensor]


class Step(nn.Module):
    """A module with parameters and a function of it."""

    def __init__(self, function: Forward, **parts: Any):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def raw(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, dtype=torch.float64) / 2)


def channels(x: Tensor, first: bool) -> int:
    return x.shape[1] if first else x.shape[-1]


def groups_of(wanted: int, *sizes: int) -> int:
    return math.gcd(wanted, *sizes)


def conv(layer: Layer, x: Tensor, first: bool) -> nn.Module | None:
    if not first:
        return None
    get, dims = layer.get, x.dim() - 2
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    i, o = x.shape[1], get("out")
    groups = groups_of(get("groups"), i, o) if get("groups") else math.gcd(i, o)
    stride, padding, dilation = get("stride"), get("padding"), get("dilation")
    kernel = tuple(get("kernel")[d % len(get("kernel"))] for d in range(dims))
    if padding == "same":
        stride = 1
    # Reflection and wrapping take no more than what is there.
    least = min(x.shape[2:])
    mode = get("mode")
    if padding == "same":
        if mode != "zeros" and max(dilation * (k - 1) for k in kernel) >= least:
            mode = "zeros"
    else:
        padding = min(padding, least - 1) if mode != "zeros" else padding
        if any(
            dilation * (k - 1) + 1 > s + 2 * padding
            for k, s in zip(kernel, x.shape[2:], strict=True)
        ):
            kernel = (1,) * dims
    return kind(i, o, kernel, stride, padding, dilation, groups, get("bias"), mode)


def transposed(layer: Layer, x: Tensor, first: bool) -> nn.Module | None:
    if not first or x[0, 0].numel() > 40:
        return None
    get, dims = layer.get, x.dim() - 2
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    i, o, kernel = x.shape[1], get("out"), get("kernel")[0]
    stride, dilation = get("stride"), get("dilation")
    extra = min(get("output_padding"), max(stride, dilation) - 1)
    padding = min(get("padding"), dilation * (kernel - 1))
    if any(
        (s - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1 < 1
        for s in x.shape[2:]
    ):
        padding = 0
    groups = groups_of(get("groups"), i, o) if get("groups") else math.gcd(i, o)
    return kind(i, o, kernel, stride, padding, extra, groups, get("bias"), dilation)


def norm(layer: Layer, x: Tensor, first: bool) -> nn.Module | None:
    size, kind, bias = channels(x, first), layer.get("norm"), layer.get("bias")
    if kind in ("layer", "rms"):
        made = nn.LayerNorm(size, bias=bias) if kind == "layer" else nn.RMSNorm(size)
        if first:
            return Step(lambda m, x: m.norm(x.movedim(1, -1)).movedim(-1, 1), norm=made)
        return made
    if kind == "whole":
        return nn.LayerNorm(x.shape[1:], bias=bias)
    if x.dim() == 2:
        return nn.BatchNorm1d(size) if kind == "batch" else nn.GroupNorm(groups_of(2, size), size)
    dims = x.dim() - 2 if first else 1
    if kind == "batch":
        made = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](size)
    elif kind == "group":
        made = nn.GroupNorm(groups_of(2, size), size)
    else:
        if x[0].numel() == size:
            return None  # one position has no variance
        instance = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 1]
        made = instance(size, affine=True, track_running_stats=kind == "instance-tracked")
    # Without `contiguous`, PyTorch 2.13 itself crashes in the backward pass of a GroupNorm whose
    # input has channels last in memory and needs no gradient.
    if first:
        return Step(lambda m, x: m.norm(x.contiguous()), norm=made)
    return Step(lambda m, x: m.norm(x.transpose(1, 2).contiguous()).transpose(1, 2), norm=made)


ACTIVATIONS = {
    "relu": lambda m, x: F.relu(x),
    "silu": lambda m, x: F.silu(x + 1, inplace=True),
    "gelu": lambda m, x: F.gelu(x),
    "tanh": lambda m, x: x.tanh(),
    "mul_": lambda m, x: x.clone().mul_(1.5).add_(x),
    "softmax": lambda m, x: x * x.softmax(1),
    "slice": lambda m, x: torch.cat([x[:, :1].sin(), x[:, 1:]], 1),
}


def activation(layer: Layer, x: Tensor, first: bool) -> nn.Module:
    function = layer.get("function")
    if function == "prelu":
        return Step(lambda m, x: m.act(x), act=nn.PReLU(x.shape[1]))
    return Step(ACTIVATIONS[function])


def parameter(layer: Layer, x: Tensor, first: bool) -> nn.Module:
    """A raw parameter that broadcasts against the input."""
    size = channels(x, first)
    shape = {
        "features": (size, *(1,) * (x.dim() - 2)) if first else (size,),
        "positions": (1, *x.shape[1:]),
        "scalar": (),
        "full": tuple(x.shape[1:]),
    }[layer.get("shape")]
    made = raw(*shape) if shape else nn.Parameter(torch.rand((), dtype=torch.float64))
    function: Forward = {
        "add": lambda m, x: x + m.p,
        "scale": lambda m, x: x * m.p,
        "gate": lambda m, x: x * torch.sigmoid(m.p),
        "expand": lambda m, x: x + m.p.expand(x.shape),
        "twice": lambda m, x: (x + m.p) * m.p,
    }[layer.get("use")]
    # Written in a function of the module, `normal_` above needs at least one dimension.
    made = made if made.dim() else nn.Parameter(made.detach().reshape(1))
    return Step(function, p=made)


def linear(layer: Layer, x: Tensor, first: bool) -> nn.Module:
    """Over the features, wherever they are, in one of many ways."""
    i, o = channels(x, first), layer.get("out")
    if layer.get("way") in ("tied", "lora", "autoencoder", "norm"):
        o = i
    function, parts = {
        "module": lambda: (lambda m, x: m.a(x), {"a": nn.Linear(i, o, bias=layer.get("bias"))}),
        "matmul": lambda: (lambda m, x: x @ m.w, {"w": raw(i, o)}),
        "transposed": lambda: (lambda m, x: x @ m.w.T, {"w": raw(o, i)}),
        "einsum": lambda: (lambda m, x: torch.einsum("...i,oi->...o", x, m.w), {"w": raw(o, i)}),
        "tied": lambda: (lambda m, x: F.linear(F.linear(x, m.w).tanh(), m.w), {"w": raw(i, i)}),
        "autoencoder": lambda: (
            lambda m, x: F.linear(torch.tanh(F.linear(x, m.w, m.b)), m.w.T),
            {"w": raw(4, i), "b": raw(4)},
        ),
        "lora": lambda: (
            lambda m, x: m.a(x) + m.up(m.down(x)),
            {
                "a": nn.Linear(i, i).requires_grad_(False),
                "down": nn.Linear(i, 2, bias=False),
                "up": nn.Linear(2, i, bias=False),
            },
        ),
        "norm": lambda: (
            lambda m, x: m.a(x),
            {"a": nn.utils.parametrizations.weight_norm(nn.Linear(i, i))},
        ),
        "bilinear": lambda: (
            lambda m, x: torch.einsum("...i,oij,...j->...o", x, m.w, x.tanh()),
            {"w": raw(o, i, i)},
        ),
    }[layer.get("way")]()  # fmt: skip
    if not first:
        return Step(function, **parts)
    return Step(lambda m, x: function(m, x.movedim(1, -1)).movedim(-1, 1), **parts)


def attention(layer: Layer, x: Tensor, first: bool) -> nn.Module | None:
    if first or x.dim() != 3:
        return None
    size, t, batch_first = x.shape[-1], x.shape[1], layer.get("batch_first")
    way = layer.get("way")
    heads = 2 if size % 2 == 0 else 1
    if way == "relative":

        def function(m: Any, x: Tensor) -> Tensor:
            q, k, v = m.qkv(x).unflatten(-1, (3, 1, size)).permute(2, 0, 3, 1, 4)
            bias = m.table[m.index]
            return F.scaled_dot_product_attention(q, k, v, bias)[:, 0]

        index = torch.arange(t)[:, None] - torch.arange(t) + t - 1
        step = Step(function, qkv=nn.Linear(size, 3 * size), table=raw(2 * t - 1))
        step.register_buffer("index", index)
        return step
    if way == "encoder":
        encoder = nn.TransformerEncoderLayer(size, heads, 5, batch_first=batch_first)
        if batch_first:
            return encoder
        return Step(lambda m, x: m.layer(x.transpose(0, 1)).transpose(0, 1), layer=encoder)
    options: dict[str, Any] = {"batch_first": batch_first, "add_bias_kv": way == "bias-kv"}
    if way == "separate":
        options |= {"kdim": size - 1, "vdim": size - 1}
    cut = size - 1 if way == "separate" else size

    def call(m: Any, x: Tensor) -> Tensor:
        y = x if batch_first else x.transpose(0, 1)
        z = y[..., :cut]
        out = m.mha(y, z, z, need_weights=way == "weights")[0]
        return out if batch_first else out.transpose(0, 1)

    return Step(call, mha=nn.MultiheadAttention(size, heads, **options))


def positions(layer: Layer, x: Tensor, first: bool) -> nn.Module | None:
    """What mixes or marks positions of tokens."""
    if first or x.dim() != 3:
        return None
    t, size = x.shape[1:]
    way = layer.get("way")
    if way == "embedding":
        return Step(lambda m, x: x + m.p(torch.arange(t)), p=nn.Embedding(t + 1, size))
    if way == "class-token":
        return Step(lambda m, x: torch.cat([m.p.expand(len(x), -1, -1), x], 1), p=raw(1, 1, size))
    if way == "mixer":
        return Step(lambda m, x: m.a(x.transpose(1, 2)).transpose(1, 2), a=nn.Linear(t, t))
    if way == "windows":
        width = 2 if t % 2 == 0 else 1
        return Step(
            lambda m, x: m.a(x.unflatten(1, (-1, width)).flatten(0, 1).flatten(1))
            .unflatten(-1, (width, -1)).unflatten(0, (len(x), -1)).flatten(1, 2),
            a=nn.Linear(width * size, width * size),
        )  # fmt: skip
    return Step(lambda m, x: m.rnn(x)[0], rnn=nn.GRU(size, size, batch_first=True))


def pooling(layer: Layer, x: Tensor, first: bool) -> nn.Module | None:
    if not first or min(x.shape[2:]) < 2:
        return None
    dims = x.dim() - 2
    kind = {
        "avg": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        "max": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    }[layer.get("pool")]
    return kind[dims - 1](2)


MAKERS = {
    "conv": conv,
    "transposed": transposed,
    "norm": norm,
    "activation": activation,
    "parameter": parameter,
    "linear": linear,
    "attention": attention,
    "positions": positions,
    "pooling": pooling,
}
