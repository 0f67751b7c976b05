"""Linear layers with frozen weights under vmap: samples, cotangents and positions in one product.

Forward and pull-back are the same product, by `fastgradnorm_kernels.linear`, which is faster on
some processors than what `F.linear` calls. Elsewhere `F.linear` itself is as good.
"""

from typing import Any

import fastgradnorm_kernels as kernels
import torch
from fastgradnorm_kernels.levels import bare, outside, wrapped
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.single_level import (
    SingleLevel,
    is_differentiated,
    is_frozen,
    unwrap,
    wrap,
)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `F.linear`."""
    plain = input.device.type == "cpu" and input.dtype == weight.dtype == torch.float32
    if not plain or weight.dim() != 2 or torch.is_autocast_enabled("cpu"):
        return F.linear(input, weight, bias)
    differentiated = is_differentiated(input) if is_frozen(weight, bias) else None
    if differentiated is None:
        return F.linear(input, weight, bias)
    if not differentiated:
        return _product(input, weight, bias)
    output: Tensor = _Linear.within(input, weight, bias)
    return output


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    inside = bare(x)
    if inside is None:
        return F.linear(x, weight, bias)
    with outside():
        output = kernels.linear(inside.fronted(), weight, bias)
    return wrapped(output, tuple(inside.places))


class _Linear(SingleLevel):
    """`x weightᵀ + bias` for x `[..., I]`, differentiated by x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return wrap(_product(unwrap(x), weight, bias))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return _product(g, weight.mT, None), None, None
