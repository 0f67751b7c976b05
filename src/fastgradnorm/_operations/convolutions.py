"""Convolutions with frozen weights under vmap: samples and cotangents in one call of oneDNN.

Two things make them faster than PyTorch's own rules for vmap. The pull-back is not handed an input
of the right size that was copied together for its shape alone. And where it pays the channels are
last in memory, as oneDNN likes them; what follows such a convolution keeps them there.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgradnorm._operations.rows import Rows, layout
from fastgradnorm._operations.single_level import (
    SingleLevel,
    is_differentiated,
    is_frozen,
    unwrap,
    wrap,
)

# Pixels of the output from which on oneDNN is faster with the channels last.
_LARGE = 32

_Sizes = tuple[int, ...]


def conv(
    function: Callable[..., Tensor],
    dims: int,
    channels_last: bool,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`function`, one of PyTorch's convolutions over `dims` dimensions.

    The channels of the output are last in memory where that is faster and `channels_last` allows.
    """
    if isinstance(padding, str):
        return function(input, weight, bias, stride, padding, dilation, groups)
    plain = input.device.type == "cpu" and input.dtype == weight.dtype == torch.float32
    plain = plain and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    plain = plain and input.dim() == dims + 2
    differentiated = None
    if plain and not torch.is_autocast_enabled("cpu") and is_frozen(weight, bias):
        differentiated = is_differentiated(input)
    if differentiated is None:
        return function(input, weight, bias, stride, padding, dilation, groups)
    geometry = _Geometry(
        _sizes(stride, dims), _sizes(padding, dims), _sizes(dilation, dims), groups
    )
    format = torch.contiguous_format
    if channels_last and dims == 2 and geometry.pixels(input.shape, weight.shape) >= _LARGE:
        format = torch.channels_last
    weight = weight.contiguous(memory_format=format)
    if not differentiated:
        return _forward(Rows.of(input), weight, bias, geometry, format)
    output: Tensor = _Conv.within(input, weight, bias, geometry, format)
    return output


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

    def options(self) -> tuple[Any, ...]:
        """As PyTorch's operators want them, with those of transposed convolutions."""
        none = (0,) * len(self.stride)
        return self.stride, self.padding, self.dilation, False, none, self.groups


def _forward(
    x: Rows, weight: Tensor, bias: Tensor | None, geometry: _Geometry, format: torch.memory_format
) -> Tensor:
    def run(rows: Tensor) -> Tensor:
        rows = rows.contiguous(memory_format=format)
        return torch.convolution(rows, weight, bias, *geometry.options())

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
        options = (*ctx.geometry.options(), [True, False, False])

        def run(rows: Tensor) -> Tensor:
            rows = rows.contiguous(memory_format=ctx.format)
            # Its shape alone is read, but it must lie in memory, or it would be copied there.
            shape = (len(rows), *ctx.shape[1:])
            x = rows if rows.shape == shape else torch.empty(shape, memory_format=ctx.format)
            pulled: Tensor
            pulled, *_ = torch.ops.aten.convolution_backward(rows, x, weight, None, *options)
            return pulled.contiguous(memory_format=ctx.like)

        return Rows.of(g).apply(run), *(None,) * 4
