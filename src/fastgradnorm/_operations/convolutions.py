"""Convolutions: their rules, and samples and cotangents in one call of a library under vmap.

The pull-back is not handed an input of the right size that was copied together for its shape alone,
as by PyTorch's own rules for vmap. And where it pays the channels are last in memory, which what
follows keeps. On a GPU autocast, under which those rules do not all run, is settled here.
"""

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import fastgradnorm_kernels as kernels
import torch
from fastgradnorm_kernels import operators
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from fastgradnorm._operations.operation import Operation, ruled
from fastgradnorm._operations.rows import Rows, layout, position_rows
from fastgradnorm._operations.rules import (
    Call,
    Joint,
    Rule,
    Saved,
    Shape,
    SqNorms,
    outer_sq_norm,
)
from fastgradnorm._operations.single_level import (
    SingleLevel,
    cast,
    is_differentiated,
    is_frozen,
    unwrap,
    wrap,
)

# Pixels of the output from which on oneDNN is faster with the channels last.
_LARGE = 32

_Sizes = tuple[int, ...]
_PULLED: tuple[Callable[..., Tensor], ...] = (conv1d_input, conv2d_input, conv3d_input)


def conv(
    function: Callable[..., Tensor],
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    channels_last: bool,
) -> Tensor:
    """`function`, one of PyTorch's convolutions over `dims` dimensions.

    The channels of the output are last in memory where that is faster and `channels_last` allows.
    """
    if isinstance(padding, str) or input.dim() != dims + 2:
        return function(input, weight, bias, stride, padding, dilation, groups)
    if input.is_cuda and torch.is_autocast_enabled("cuda"):
        # Here, as a pull-back has no autocast, and vmap looks at dtypes before that has acted.
        dtype = torch.get_autocast_dtype("cuda")
        input, weight = cast(input, dtype), cast(weight, dtype)
        bias = None if bias is None else cast(bias, dtype)
    folds = _folds(input, weight) and is_frozen(weight, bias)
    differentiated = is_differentiated(input) if folds else None
    if differentiated is None:
        return function(input, weight, bias, stride, padding, dilation, groups)
    geometry = _Geometry(
        _sizes(stride, dims), _sizes(padding, dims), _sizes(dilation, dims), groups
    )
    last = channels_last and dims == 2 and _prefers_channels_last(input, weight, geometry)
    format = torch.channels_last if last else torch.contiguous_format
    weight = weight.contiguous(memory_format=format)
    if not differentiated:
        return _forward(Rows.of(input), weight, bias, geometry, format)
    output: Tensor = _Conv.within(input, weight, bias, geometry, format)
    return output


def _folds(input: Tensor, weight: Tensor) -> bool:
    """Whether samples are folded by hand: on a GPU, and for oneDNN in float32."""
    if input.is_cuda:
        return input.dtype == weight.dtype
    plain = input.device.type == "cpu" and input.dtype == weight.dtype == torch.float32
    plain = plain and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    return plain and not torch.is_autocast_enabled("cpu")


def _prefers_channels_last(input: Tensor, weight: Tensor, geometry: "_Geometry") -> bool:
    """Whether oneDNN is faster so, as for large images, or cuDNN, as on the matrix units.

    Else it copies all it is given and makes there (on an NVIDIA H200 15 % of a ResNet-18's pass).
    """
    if not input.is_cuda:
        return geometry.pixels(input.shape, weight.shape) >= _LARGE
    cudnn: Any = torch.backends.cudnn  # whose stubs do not know all that it has
    if input.dtype == torch.float32 and cudnn.conv.fp32_precision != "tf32":
        return False
    return input.dtype != torch.float64 and geometry.groups == 1


def _sizes(value: int | Sequence[int], dims: int) -> _Sizes:
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * dims if len(sizes) == 1 else sizes


class _Geometry(NamedTuple):
    stride: _Sizes
    padding: _Sizes
    dilation: _Sizes
    groups: int

    def pixels(self, shape: _Sizes, weight: _Sizes) -> int:
        """Of the output of an input of `shape`."""
        sizes = zip(shape[2:], weight[2:], self.stride, self.padding, self.dilation, strict=True)
        return math.prod((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)


def _forward(
    x: Rows, weight: Tensor, bias: Tensor | None, geometry: _Geometry, format: torch.memory_format
) -> Tensor:
    def run(rows: Tensor) -> Tensor:
        rows = rows.contiguous(memory_format=format)
        function = (F.conv1d, F.conv2d, F.conv3d)[len(geometry.stride) - 1]
        return function(rows, weight, bias, *geometry)

    return x.apply(run)


class _Conv(SingleLevel):
    """Differentiated by x alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: _Geometry,
        format: torch.memory_format,
    ) -> Tensor:
        rows = Rows.of(unwrap(x))
        ctx.save_for_backward(weight)
        ctx.geometry, ctx.format = geometry, format
        ctx.shape, ctx.like = x.shape, layout(rows.tensor)
        return wrap(_forward(rows, weight, bias, geometry, format))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors

        def run(rows: Tensor) -> Tensor:
            rows = rows.contiguous(memory_format=ctx.format)
            # Its shape alone is read, but it must lie in memory, or it would be copied there.
            shape = (len(rows), *ctx.shape[1:])
            x = rows
            if rows.shape != shape:
                like = {"dtype": rows.dtype, "device": rows.device, "memory_format": ctx.format}
                x = torch.empty(shape, **like)
            if operators.has_convolution_pulled():
                pulled = operators.convolution_pulled(rows, x, weight, ctx.geometry)
            else:
                pulled = _PULLED[len(shape) - 3](shape, weight, rows, *ctx.geometry)
            return pulled.contiguous(memory_format=ctx.like)

        return Rows.of(g).apply(run), *(None,) * 4


def _rule(dims: int, call: Call, tracked: Collection[str]) -> Rule:
    x, weight, groups = call["input"], call["weight"], call["groups"]
    kernel, outputs, unbatched = tuple(weight.shape[2:]), weight.shape[0], x.dim() == dims + 1
    stride, dilation = _sizes(call["stride"], dims), _sizes(call["dilation"], dims)
    before, after = _padding(call["padding"], kernel, dilation)

    def padded(x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        if before == after:
            return x, before
        # `same` with an even reach: one more on the right
        both = [p for pair in zip(before[::-1], after[::-1], strict=True) for p in pair]
        return F.pad(x, both), (0,) * dims

    def parts(saved: Saved, g: Tensor) -> tuple[Tensor, Tensor]:
        x, padding = padded(saved[0][None] if unbatched else saved[0])
        patches = kernels.conv_patches(x, kernel, stride, padding, dilation)  # [B, C*I, T]
        a = patches.unflatten(1, (groups, -1)).movedim(0, -2).flatten(-2)  # [G, I, B*T]
        g = (g[None] if unbatched else g).flatten(2)
        rows = g.unflatten(1, (groups, -1)).movedim(0, -2).flatten(-2)  # [G, O, B*T]
        return a.mT, rows.mT

    def weight_norm(saved: Saved, g: Tensor) -> Tensor:
        if not unbatched and len(saved[0]) > 1:  # frames in the batch add to one gradient
            return outer_sq_norm(*parts(saved, g))
        x, padding = padded(saved[0][None] if unbatched else saved[0])
        options = (kernel, stride, padding, dilation, groups)
        norm: Tensor = kernels.conv_sq_norm(x, (g[None] if unbatched else g)[:, None], *options)
        return norm[0, 0]

    def rows(g: Tensor) -> Tensor:
        return g.flatten(1).mT if unbatched else position_rows(g)

    sizes = zip(x.shape[-dims:], before, after, kernel, stride, dilation, strict=True)
    extent = [(n + b + e - d * (k - 1) - 1) // s + 1 for n, b, e, k, s, d in sizes]
    positions = (1 if unbatched else len(x)) * int(torch.Size(extent).numel())
    shape = Shape(positions, weight[0].numel(), outputs // groups)
    sq_norms = _weight_and_bias(weight_norm, rows, tracked)
    joint = Joint("outer", "weight", parts)
    return Rule(("weight", "bias"), (x,), sq_norms, shape, groups, joint)


def _weight_and_bias(
    weight_norm: Callable[[Saved, Tensor], Tensor],
    rows: Callable[[Tensor], Tensor],
    tracked: Collection[str],
) -> SqNorms:
    def sq_norms(saved: Saved, g: Tensor) -> dict[str, Tensor]:
        norms = {}
        if "weight" in tracked:
            norms["weight"] = weight_norm(saved, g)
        if "bias" in tracked:
            norms["bias"] = kernels.bias_sq_norm(rows(g))
        return norms

    return sq_norms


def _padding(
    padding: str | int | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Zeros before and after each dimension."""
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    both = (0,) * len(kernel) if isinstance(padding, str) else _sizes(padding, len(kernel))
    return both, both


def _transposed_rule(dims: int, call: Call, tracked: Collection[str]) -> Rule | None:
    """The gradient of the convolution back from output to input: a and g change roles."""
    x, weight, groups = call["input"], call["weight"], call["groups"]
    if x.dim() == dims + 1 or len(x) > 1:
        return None
    kernel = tuple(weight.shape[2:])
    options = (
        kernel,
        _sizes(call["stride"], dims),
        _sizes(call["padding"], dims),
        _sizes(call["dilation"], dims),
        groups,
    )

    # An output padding of a stride or more adds positions that no input stands for.
    added = zip(_sizes(call["output_padding"], dims), _sizes(call["stride"], dims), strict=True)
    more = [extra // step for extra, step in added]

    def weight_norm(saved: Saved, g: Tensor) -> Tensor:
        a = F.pad(saved[0], [p for extra in reversed(more) for p in (0, extra)])
        norm: Tensor = kernels.conv_sq_norm(g, a[:, None], *options)
        return norm[0, 0]

    shape = Shape(x[0, 0].numel(), weight[0].numel(), x.shape[1] // groups)
    sq_norms = _weight_and_bias(weight_norm, position_rows, tracked)
    return Rule(("weight", "bias"), (x,), sq_norms, shape, groups)


_CONVS: list[Callable[..., Tensor]] = [F.conv1d, F.conv2d, F.conv3d]
_TRANSPOSED: list[Callable[..., Tensor]] = [
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
]
_OPTIONS: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0}
_MORE: dict[str, Any] = {"output_padding": 0, "groups": 1, "dilation": 1}

OPERATIONS: dict[Callable[..., Any], Operation] = {
    function: ruled(
        partial(_rule, dims),
        "input weight",
        partial(conv, function, dims),
        has_layout=True,
        narrow=True,
        **_OPTIONS,
        dilation=1,
        groups=1,
    )
    for dims, function in enumerate(_CONVS, 1)
} | {
    function: ruled(
        partial(_transposed_rule, dims), "input weight", narrow=True, **_OPTIONS, **_MORE
    )
    for dims, function in enumerate(_TRANSPOSED, 1)
}
