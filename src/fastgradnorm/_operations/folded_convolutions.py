"""Convolutions of samples and cotangents in one call of a library, under vmap.

The pull-back is not handed an input of the right size that was copied together for its shape alone,
as by PyTorch's own rules for vmap. And where it pays the channels are last in memory, which what
follows keeps. Autocast, under which those rules do not all run, is settled here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import fastgradnorm_kernels as kernels
import torch
from fastgradnorm_kernels import exact_products, operators
from fastgradnorm_kernels.geometry import Geometry, sizes
from fastgradnorm_kernels.switches import marked
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from fastgradnorm._operations.rows import Rows, layout
from fastgradnorm._operations.single_level import (
    FOLDED,
    SingleLevel,
    as_multiplied,
    is_differentiated,
    is_frozen,
    unwrap,
    wrap,
)

# Pixels of the output from which on oneDNN is faster with the channels last.
LARGE = 32

# Attribute of a weight: whether it has changed since, and its copy in another layout.
_KEPT = "fastgradnorm_laid_out"

_Sizes = tuple[int, ...]
_Options = tuple[_Sizes, _Sizes, _Sizes, int]  # stride, padding, dilation, groups
_Formats = tuple[torch.memory_format, torch.memory_format]  # of what is multiplied, and comes out
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
    input, weight, bias = as_multiplied(input, weight, bias)
    frozen = folds(input, weight) and is_frozen(weight, bias)
    differentiated = is_differentiated(input) if frozen else None
    if differentiated is None:
        return function(input, weight, bias, stride, padding, dilation, groups)
    geometry = Geometry(
        tuple(weight.shape[2:]), sizes(stride, dims), sizes(padding, dims), sizes(dilation, dims)
    )
    last = channels_last and dims == 2 and prefers_channels_last(input, weight, geometry, groups)
    options = *geometry[1:], groups
    format = torch.channels_last if last else torch.contiguous_format
    if not (groups == 1 and exact_products.pulls(input, weight)):  # has its weights' parts itself
        weight = laid_out(weight, format)
    # Of a first layer exact products that follow would copy it so: forward, and the gradients of
    # all cotangents back.
    first = channels_last and dims == 2 and not input.requires_grad
    precedes = first and exact_products.precedes(input, weight)
    formats = format, torch.channels_last if precedes else format
    if not differentiated:
        return _forward(Rows.of(input), weight, bias, options, formats)
    output: Tensor = _Conv.within(input, weight, bias, options, formats)
    return output


def laid_out(weight: Tensor, format: torch.memory_format) -> Tensor:
    """The weight so in memory; a copy is kept with it, for the passes to come."""
    if weight.is_contiguous(memory_format=format):
        return weight
    kept = getattr(weight, _KEPT, None)
    if kept is None or kept[0]():
        kept = marked(weight), weight.contiguous(memory_format=format)
        setattr(weight, _KEPT, kept)
    copy: Tensor = kept[1]
    return copy


def folds(input: Tensor, weight: Tensor) -> bool:
    """Whether samples are folded by hand: on a GPU, and for oneDNN."""
    if input.is_cuda or input.dtype != weight.dtype:
        return input.is_cuda and input.dtype == weight.dtype
    plain = input.device.type == "cpu" and input.dtype in FOLDED
    return plain and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def prefers_channels_last(input: Tensor, weight: Tensor, geometry: Geometry, groups: int) -> bool:
    """Whether oneDNN is faster so, as for large images, or what the matrix units make.

    Else cuDNN copies all it is given and makes there (on an NVIDIA H200 15 % of a ResNet-18's
    pass).
    """
    if not input.is_cuda:
        return math.prod(geometry.out(input.shape[2:])) >= LARGE
    if groups != 1:
        return False
    cudnn: Any = torch.backends.cudnn  # whose stubs do not know all that it has
    if input.dtype == torch.float32 and cudnn.conv.fp32_precision != "tf32":
        return exact_products.pulls(input, weight)
    return input.dtype != torch.float64


def _forward(
    x: Rows,
    weight: Tensor,
    bias: Tensor | None,
    options: _Options,
    formats: _Formats,
) -> Tensor:
    format, made = formats

    def run(rows: Tensor) -> Tensor:
        if options[3] == 1 and exact_products.convolves(rows, weight):
            output = exact_products.convolution(rows, weight, bias, _geometry(weight, options))
            return output.contiguous(memory_format=made)
        rows = rows.contiguous(memory_format=format)
        if _is_product(rows, weight, options):
            return _product(rows, weight.flatten(1), bias)
        function = (F.conv1d, F.conv2d, F.conv3d)[len(options[0]) - 1]
        output = function(rows, weight, bias, *options)
        return output if made == format else output.contiguous(memory_format=made)

    return x.apply(run)


def _geometry(weight: Tensor, options: _Options) -> Geometry:
    return Geometry(tuple(weight.shape[2:]), *options[:3])


def _is_product(rows: Tensor, weight: Tensor, options: _Options) -> bool:
    """Whether it is a linear layer at each pixel of rows that have the channels last in memory.

    On one thread PyTorch keeps such convolutions of fewer than 16 images from oneDNN, and takes
    twice as long.
    """
    if rows.device.type != "cpu" or options[3] != 1 or set(weight.shape[2:]) != {1}:
        return False
    return set(options[0]) == {1} and set(options[1]) == {0} and rows.movedim(1, -1).is_contiguous()


def _product(
    rows: Tensor,  # [B, I, *space]
    weight: Tensor,  # [O, I]
    bias: Tensor | None,
) -> Tensor:
    return kernels.linear(rows.movedim(1, -1), weight, bias).movedim(-1, 1)


class _Conv(SingleLevel):
    """Differentiated by x alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        options: _Options,
        formats: _Formats,
    ) -> Tensor:
        rows = Rows.of(unwrap(x))
        ctx.save_for_backward(weight)
        ctx.options, ctx.format = options, formats[0]
        ctx.shape, ctx.like = x.shape, layout(rows.tensor)
        # Found here: the backward pass of a GPU has another thread.
        exact = options[3] == 1 and exact_products.pulls(rows.tensor, weight)
        ctx.parts = exact_products.kept() if exact else None
        return wrap(_forward(rows, weight, bias, options, formats))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors

        def run(rows: Tensor) -> Tensor:
            if ctx.parts is not None:
                given = weight, _geometry(weight, ctx.options), ctx.shape[2:], ctx.parts
                pulled = exact_products.convolution_pulled(rows, *given)
                return pulled.contiguous(memory_format=ctx.like)
            rows = rows.contiguous(memory_format=ctx.format)
            if _is_product(rows, weight, ctx.options):
                pulled = _product(rows, weight.flatten(1).mT, None)
                return pulled.contiguous(memory_format=ctx.like)
            # Its shape alone is read, but it must lie in memory, or it would be copied there.
            shape = (len(rows), *ctx.shape[1:])
            x = rows
            if rows.shape != shape:
                like = {"dtype": rows.dtype, "device": rows.device, "memory_format": ctx.format}
                x = torch.empty(shape, **like)
            if operators.has_convolution_pulled():
                pulled = operators.convolution_pulled(rows, x, weight, ctx.options)
            else:
                pulled = _PULLED[len(shape) - 3](shape, weight, rows, *ctx.options)
            return pulled.contiguous(memory_format=ctx.like)

        return Rows.of(g).apply(run), *(None,) * 4
