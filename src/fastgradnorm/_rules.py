"""Operation to squared-norm rule: what a call's inputs say about its parameters' gradients.

A rule sees one call inside `vmap` over samples, so every tensor belongs to one sample: a leading
batch dimension is 1, or counts more positions where the model folded some into it (windows,
frames).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._errors import UnsupportedModelError

SqNorms = Callable[[Sequence[Tensor], Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Shape:
    """Positions, inputs and outputs of one call: T, I, O."""

    positions: int
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Rule:
    """How the squared norms of one call's parameters follow from the gradient at its output.

    Attributes:
        slots: Names of the arguments it accounts for.
        saved: Tensors the backward pass needs.
        sq_norms: `(saved, gradient at the output) -> {slot: squared norm}`, for the wanted slots.
        shape: T, I and O of the weight.
        groups: Independent parts of the weight.
    """

    slots: tuple[str, ...]
    saved: tuple[Tensor, ...]
    sq_norms: SqNorms
    shape: Shape
    groups: int = 1


Call = Mapping[str, Any]  # arguments by name
RuleMaker = Callable[[Call, str], Rule | None]  # (call, backend)


def _weight(a: Tensor, g: Tensor, backend: str) -> Tensor:
    """`‖Σ_t g_t a_tᵀ‖²` for a `[T, I]`, g `[T, O]`."""
    norm: Tensor = kernels.weight_sq_norm(a[None], g[None, None], backend)
    return norm[0, 0]


def _linear(call: Call, backend: str) -> Rule:
    x: Tensor = call["input"]
    inputs, outputs = x.shape[-1], call["weight"].shape[0]

    def sq_norms(saved: Sequence[Tensor], g: Tensor) -> dict[str, Tensor]:
        g = g.reshape(-1, outputs)
        a = saved[0].reshape(-1, inputs)
        return {"weight": _weight(a, g, backend), "bias": kernels.bias_sq_norm(g)}

    return Rule(
        ("weight", "bias"), (x,), sq_norms, Shape(x.numel() // max(1, inputs), inputs, outputs)
    )


def _tuple(value: int | Sequence[int], length: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * length
    return tuple(value) * (length if len(value) == 1 else 1)


def _conv(dims: int, call: Call, backend: str) -> Rule:
    x, weight = call["input"], call["weight"]
    kernel, groups = tuple(weight.shape[2:]), call["groups"]
    stride, dilation = _tuple(call["stride"], dims), _tuple(call["dilation"], dims)
    outputs, unbatched = weight.shape[0], x.dim() == dims + 1
    before, after = _conv_padding(call["padding"], kernel, dilation)

    def sq_norms(saved: Sequence[Tensor], g: Tensor) -> dict[str, Tensor]:
        (a,) = saved
        if unbatched:
            a, g = a[None], g[None]
        padding = before
        if before != after:  # `same` with an even reach: one more on the right
            a = F.pad(a, [p for pair in zip(before[::-1], after[::-1], strict=True) for p in pair])
            padding = (0,) * dims
        args = (kernel, stride, padding, dilation, groups)
        return {
            "weight": _conv_weight(a, g, *args, backend),
            "bias": kernels.bias_sq_norm(g.flatten(2).movedim(1, -1).reshape(-1, outputs)),
        }

    space = x.shape[-dims:]
    extent = [
        (size + b + e - d * (k - 1) - 1) // s + 1
        for size, b, e, k, s, d in zip(space, before, after, kernel, stride, dilation, strict=True)
    ]
    frames = 1 if unbatched else x.shape[0]
    positions = frames * int(torch.Size(extent).numel())
    shape = Shape(positions, weight[0].numel(), outputs // groups)
    return Rule(("weight", "bias"), (x,), sq_norms, shape, groups)


def _conv_padding(
    padding: str | int | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Zeros before and after each dimension."""
    if padding == "valid":
        padding = 0
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    assert not isinstance(padding, str)
    both = _tuple(padding, len(kernel))
    return both, both


def _conv_weight(
    x: Tensor,
    g: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    backend: str,
) -> Tensor:
    if len(x) == 1:
        args = (kernel, stride, padding, dilation, groups, backend)
        norm: Tensor = kernels.conv_sq_norm(x, g[:, None], *args)
        return norm[0, 0]
    # Frames in the batch dimension: their positions add to one weight gradient.
    patches = kernels.conv_patches(x, kernel, stride, padding, dilation)  # [B, C*I, T]
    a = patches.unflatten(1, (groups, -1)).movedim(0, -2).flatten(-2)  # [G, I, B*T]
    rows = g.flatten(2).unflatten(1, (groups, -1)).movedim(0, -2).flatten(-2)  # [G, O, B*T]
    norms: Tensor = kernels.weight_sq_norm(a.mT, rows.mT[:, None], backend)
    return norms.sum()


def _affine(normalized: Tensor, g: Tensor, backend: str) -> dict[str, Tensor]:
    """For x̂ and g `[T, D]`."""
    weight, bias = kernels.affine_sq_norm(normalized[None], g[None, None], backend)
    return {"weight": weight[0, 0], "bias": bias[0, 0]}


def _channels_last(x: Tensor) -> Tensor:
    """`[B, C, *space]` as `[B * positions, C]`, a view where B is 1."""
    return x.flatten(2).mT[0] if len(x) == 1 and x.dim() > 2 else x.movedim(1, -1).flatten(0, -2)


def _channel_norm(
    normalize: Callable[..., Tensor], saved: tuple[Tensor, ...], backend: str
) -> Rule:
    """Norm layers with scale and shift per channel: batch, group and instance norm."""
    x = saved[0]

    def sq_norms(saved: Sequence[Tensor], g: Tensor) -> dict[str, Tensor]:
        return _affine(_channels_last(normalize(*saved)), _channels_last(g), backend)

    channels = x.shape[1]
    return Rule(
        ("weight", "bias"), saved, sq_norms, Shape(x.numel() // max(1, channels), 1, channels)
    )


def _batch_norm(call: Call, backend: str) -> Rule:
    mean, var, eps = call["running_mean"], call["running_var"], call["eps"]

    def normalize(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        scale: Tensor = (var.view(shape) + eps).rsqrt()
        return (x - mean.view(shape)) * scale

    return _channel_norm(normalize, (call["input"], mean, var), backend)


def _group_norm(call: Call, backend: str) -> Rule:
    normalize = partial(F.group_norm, num_groups=call["num_groups"], eps=call["eps"])
    return _channel_norm(normalize, (call["input"],), backend)


def _instance_norm(call: Call, backend: str) -> Rule | None:
    if call["input"].dim() < 3:
        return None
    if not call["use_input_stats"]:
        return _batch_norm(call, backend)
    normalize = partial(F.instance_norm, eps=call["eps"])
    return _channel_norm(normalize, (call["input"],), backend)


def _trailing_norm(function: Callable[..., Tensor], call: Call, backend: str) -> Rule:
    """Layer and RMS norm: scale and shift per entry of the trailing dimensions."""
    shape, eps, x = tuple(call["normalized_shape"]), call["eps"], call["input"]
    entries = int(torch.Size(shape).numel())

    def sq_norms(saved: Sequence[Tensor], g: Tensor) -> dict[str, Tensor]:
        normalized = function(saved[0], shape, eps=eps)
        return _affine(normalized.reshape(-1, entries), g.reshape(-1, entries), backend)

    return Rule(("weight", "bias"), (x,), sq_norms, Shape(x.numel() // max(1, entries), 1, entries))


def _embedding(call: Call, backend: str) -> Rule:
    ids, weight, padding = call["input"], call["weight"], call["padding_idx"]
    if call["scale_grad_by_freq"]:
        raise UnsupportedModelError(
            "an embedding with `scale_grad_by_freq=True` scales its gradient by counts over the "
            "whole batch. Set it to False."
        )
    if padding is not None and padding < 0:
        padding += len(weight)
    width = weight.shape[1]

    def sq_norms(saved: Sequence[Tensor], g: Tensor) -> dict[str, Tensor]:
        rows = saved[0].reshape(1, -1), g.reshape(1, 1, -1, width)
        return {"weight": kernels.embedding_sq_norm(*rows, padding, backend)[0, 0]}

    return Rule(("weight",), (ids,), sq_norms, Shape(ids.numel(), 1, width))


@dataclass(frozen=True)
class _Entry:
    names: tuple[str, ...]
    defaults: Mapping[str, Any]
    make: RuleMaker

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.defaults, **dict(zip(self.names, args, strict=False)), **kwargs}


def _entry(make: RuleMaker, required: str, **defaults: Any) -> _Entry:
    names = tuple(required.split())
    return _Entry((*names, *defaults), {"weight": None, "bias": None, **defaults}, make)


def _conv_entry(dims: int) -> _Entry:
    make = partial(_conv, dims)
    return _entry(make, "input weight", bias=None, stride=1, padding=0, dilation=1, groups=1)


_EMBEDDING = {
    "padding_idx": None,
    "max_norm": None,
    "norm_type": 2.0,
    "scale_grad_by_freq": False,
    "sparse": False,
}

_RULES: dict[Callable[..., Any], _Entry] = {
    F.linear: _entry(_linear, "input weight", bias=None),
    F.conv1d: _conv_entry(1),
    F.conv2d: _conv_entry(2),
    F.conv3d: _conv_entry(3),
    F.batch_norm: _entry(
        _batch_norm,
        "input running_mean running_var",
        weight=None,
        bias=None,
        training=False,
        momentum=0.1,
        eps=1e-5,
    ),
    F.layer_norm: _entry(
        partial(_trailing_norm, F.layer_norm),
        "input normalized_shape",
        weight=None,
        bias=None,
        eps=1e-5,
    ),
    F.rms_norm: _entry(
        partial(_trailing_norm, F.rms_norm), "input normalized_shape", weight=None, eps=None
    ),
    F.group_norm: _entry(_group_norm, "input num_groups", weight=None, bias=None, eps=1e-5),
    F.instance_norm: _entry(
        _instance_norm,
        "input",
        running_mean=None,
        running_var=None,
        weight=None,
        bias=None,
        use_input_stats=True,
        momentum=0.1,
        eps=1e-5,
    ),
    F.embedding: _entry(_embedding, "input weight", **_EMBEDDING),
}


def bind(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call | None:
    """The arguments of a call by name, or None for an operation without a rule."""
    entry = _RULES.get(func)
    return None if entry is None else entry.bind(args, kwargs)


def unbind(func: Callable[..., Any], call: Call) -> tuple[Any, ...]:
    """The positional arguments of a bound call."""
    return tuple(call[name] for name in _RULES[func].names)


def make_rule(func: Callable[..., Any], call: Call, backend: str) -> Rule | None:
    """The rule of a bound call, or None where it does not apply to these arguments."""
    return _RULES[func].make(call, backend)
