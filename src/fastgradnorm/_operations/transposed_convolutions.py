"""Transposed convolutions of samples and cotangents in one call of oneDNN, under vmap.

As `folded_convolutions`, whose channels are last in memory where that is faster: what joins such an
output to another (a U-Net's decoder) is not laid out anew, forward or back. The pull-back is a
convolution. On a GPU they are PyTorch's.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from fastgradnorm_kernels.geometry import Geometry, sizes
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.folded_convolutions import LARGE, folds, laid_out
from fastgradnorm._operations.rows import Rows, layout
from fastgradnorm._operations.single_level import (
    SingleLevel,
    as_multiplied,
    is_differentiated,
    is_frozen,
    unwrap,
    wrap,
)

_Sizes = tuple[int, ...]
_Options = tuple[_Sizes, _Sizes, _Sizes, int, _Sizes]  # as PyTorch has them, from the stride on

_TRANSPOSED: tuple[Callable[..., Tensor], ...]
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_CONVS: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)


def conv_transposed(
    function: Callable[..., Tensor],
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    channels_last: bool,
) -> Tensor:
    """`function`, one of PyTorch's transposed convolutions over `dims` dimensions.

    The channels of the output are last in memory where that is faster and `channels_last` allows.
    """
    given = (stride, padding, output_padding, groups, dilation)
    if input.device.type != "cpu" or input.dim() != dims + 2:
        return function(input, weight, bias, *given)
    input, weight, bias = as_multiplied(input, weight, bias)
    frozen = folds(input, weight) and is_frozen(weight, bias)
    differentiated = is_differentiated(input) if frozen else None
    if differentiated is None:
        return function(input, weight, bias, *given)
    steps, pads, more, apart = (
        sizes(option, dims) for option in (stride, padding, output_padding, dilation)
    )
    back = Geometry(tuple(weight.shape[2:]), steps, pads, apart)
    out = _out(input.shape[2:], back, more)
    last = channels_last and dims == 2 and math.prod(out) >= LARGE
    format = torch.channels_last if last else torch.contiguous_format
    options = steps, pads, more, groups, apart
    weight = laid_out(weight, format)
    if not differentiated:
        return _forward(Rows.of(input), weight, bias, options, format)
    output: Tensor = _ConvTransposed.within(input, weight, bias, options, format)
    return output


def _out(space: Sequence[int], back: Geometry, more: _Sizes) -> list[int]:
    """Sizes of the output: those that a convolution makes `space` of."""
    each = zip(space, *back, more, strict=True)
    return [(n - 1) * s - 2 * p + d * (k - 1) + 1 + m for n, k, s, p, d, m in each]


def _forward(
    x: Rows, weight: Tensor, bias: Tensor | None, options: _Options, format: torch.memory_format
) -> Tensor:
    function = _TRANSPOSED[len(options[0]) - 1]
    return x.apply(
        lambda rows: function(rows.contiguous(memory_format=format), weight, bias, *options)
    )


class _ConvTransposed(SingleLevel):
    """Differentiated by x alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        options: _Options,
        format: torch.memory_format,
    ) -> Tensor:
        rows = Rows.of(unwrap(x))
        ctx.save_for_backward(weight)
        ctx.options, ctx.format = options, format
        ctx.space, ctx.like = x.shape[2:], layout(rows.tensor)
        return wrap(_forward(rows, weight, bias, options, format))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        stride, padding, _, groups, dilation = ctx.options
        function = _CONVS[len(stride) - 1]

        def run(rows: Tensor) -> Tensor:
            rows = rows.contiguous(memory_format=ctx.format)
            pulled = function(rows, weight, None, stride, padding, dilation, groups)
            # An output padding of a stride or more adds positions that no input stands for.
            for dim, size in enumerate(ctx.space, 2):
                pulled = pulled.narrow(dim, 0, size)
            return pulled.contiguous(memory_format=ctx.like)

        return Rows.of(g).apply(run), *(None,) * 4
