"""Linear layers: their rule, and samples, cotangents and positions in one product under vmap.

Forward and pull-back are the same product, by `fastgradnorm_kernels.linear`, which is faster on
some processors than what `F.linear` calls. On a GPU it is `F.linear` of all of them, in which the
bias is part of the product.
"""

from collections.abc import Callable, Collection
from typing import Any

import fastgradnorm_kernels as kernels
from fastgradnorm_kernels import exact_products
from fastgradnorm_kernels.levels import Bare, bare, outside, wrapped
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.operation import Operation, ruled
from fastgradnorm._operations.rules import Call, Joint, Rule, Saved, Shape, outer_rule
from fastgradnorm._operations.single_level import (
    FOLDED,
    SingleLevel,
    as_multiplied,
    is_differentiated,
    is_frozen,
    unwrap,
    wrap,
)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `F.linear`."""
    input, weight, bias = as_multiplied(input, weight, bias)
    plain = input.is_cuda or (input.device.type == "cpu" and input.dtype in FOLDED)
    plain = plain and input.dtype == weight.dtype
    if not plain or weight.dim() != 2:
        return F.linear(input, weight, bias)
    differentiated = is_differentiated(input) if is_frozen(weight, bias) else None
    if differentiated is None:
        return F.linear(input, weight, bias)
    if not differentiated:
        return product(input, weight, bias)
    output: Tensor = _Linear.within(input, weight, bias)
    return output


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x weightᵀ + bias` of a tensor under vmap and a weight that is none, without a derivative."""
    inside = bare(x)
    if inside is None:
        return F.linear(x, weight, bias)
    return _folded(inside, lambda rows: kernels.linear(rows, weight, bias))


def _pulled(g: Tensor, weight: Tensor, parts: exact_products.Kept | None) -> Tensor:
    """`g weight`, likewise."""
    inside = bare(g)
    if inside is None:
        return F.linear(g, weight.mT)
    return _folded(inside, lambda rows: kernels.linear_pulled(rows, weight, parts))


def _folded(inside: Bare, function: Callable[[Tensor], Tensor]) -> Tensor:
    """What `function` makes of the last dimension of a tensor under vmap."""
    x = inside.tensor
    with outside():
        if x.is_cuda and x.dim() - 1 not in inside.places.values():
            # Where samples and cotangents lie: to bring them to the front may be a copy.
            output = inside._replace(tensor=function(x)).fronted()
        else:
            output = function(inside.fronted())
    return wrapped(output, tuple(inside.places))


class _Linear(SingleLevel):
    """`x weightᵀ + bias` for x `[..., I]`, differentiated by x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        # Found here: the backward pass of a GPU has another thread.
        ctx.parts = exact_products.kept() if exact_products.pulls(x, weight) else None
        return wrap(product(unwrap(x), weight, bias))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return _pulled(g, weight, ctx.parts), None, None


def make_rule(call: Call, tracked: Collection[str]) -> Rule | None:
    """Of a call with arguments `input`, `weight` and `bias`."""
    x: Tensor = call["input"]
    if call["weight"].dim() != 2:
        return None
    outputs, inputs = call["weight"].shape
    if "bias" in tracked and call["bias"].shape != (outputs,):
        return None  # its gradient is a sum over what it is broadcast to

    def rows(g: Tensor) -> Tensor:
        return g.reshape(-1, outputs)

    def parts(saved: Saved, g: Tensor) -> tuple[Tensor, Tensor]:
        return saved[0].reshape(1, -1, inputs), rows(g)[None]

    shape = Shape(x.numel() // max(1, inputs), inputs, outputs)
    bias = "bias" if "bias" in tracked else None
    return outer_rule((x,), Joint("outer", "weight", parts), shape, 1, bias, rows)


OPERATIONS: dict[Callable[..., Any], Operation] = {
    F.linear: ruled(make_rule, "input weight", form=linear, narrow=True, bias=None)
}
