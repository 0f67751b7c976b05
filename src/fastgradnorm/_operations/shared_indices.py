"""Rows that are picked or added up by an index that all samples share: edges of one graph.

For one of these PyTorch has a rule for vmap, and for its pull-back by an index of every number that
is moved, which takes some fifteen times as long. Each is the other's pull-back, and both move rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from fastgradnorm_kernels import functorch
from fastgradnorm_kernels.levels import Bare, bare, outside, wrapped
from torch import Tensor

from fastgradnorm._operations.operation import Operation
from fastgradnorm._operations.single_level import (
    SingleLevel,
    is_differentiated,
    plain,
    unwrap,
    wrap,
)


def index_select(function: Callable[..., Tensor], input: Tensor, dim: int, index: Tensor) -> Tensor:
    """`function`, one of PyTorch's names for `torch.index_select`."""
    shared = _shared(input, index)
    if shared is None or not is_differentiated(input):
        return function(input, dim, index)
    dim %= input.dim()
    picked: Tensor = _Picked.within(input, dim, shared)
    return picked


def index_add(
    function: Callable[..., Tensor],
    input: Tensor,
    dim: int,
    index: Tensor,
    source: Tensor,
    *,
    alpha: Any = 1,
) -> Tensor:
    """`function`, one of PyTorch's names for `torch.index_add`, in place or not."""
    shared = _shared(source, index)
    alike = source.dtype == input.dtype and source.dim() == input.dim()
    if shared is None or not alike or not is_differentiated(source):
        return function(input, dim, index, source, alpha=alpha)
    dim %= input.dim()
    if source.shape[dim] != len(shared) or _others(source, dim) != _others(input, dim):
        return function(input, dim, index, source, alpha=alpha)  # which says what is wrong
    added: Tensor = _Added.within(source, dim, shared, input.shape[dim])
    added = added if alpha == 1 else alpha * added
    return input.add_(added) if function is Tensor.index_add_ else input + added


def _others(tensor: Tensor, dim: int) -> tuple[int, ...]:
    return (*tensor.shape[:dim], *tensor.shape[dim + 1 :])


def _shared(rows: Tensor, index: Tensor) -> Tensor | None:
    """The index `[E]` without wrappers, if all samples share it and PyTorch would take it."""
    if not rows.is_floating_point() or rows.dim() == 0 or index.dim() > 1:
        return None
    if not functorch.works() or not functorch.is_batched_anywhere(rows):
        return None
    index = plain(index)
    return None if functorch.is_wrapped(index) else index.reshape(-1)


def _folded(x: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    """What `function` makes of a bare tensor whose first dimensions, so many, are of levels."""
    inside: Bare | None = bare(x)
    assert inside is not None
    with outside():
        output = function(inside.fronted(), len(inside.places))
    return wrapped(output, tuple(inside.places))


def _pick(x: Tensor, dim: int, index: Tensor) -> Tensor:
    return _folded(x, lambda rows, levels: rows.index_select(levels + dim, index))


def _add(x: Tensor, dim: int, index: Tensor, size: int) -> Tensor:
    def add(rows: Tensor, levels: int) -> Tensor:
        shape = list(rows.shape)
        shape[levels + dim] = size
        return rows.new_zeros(shape).index_add_(levels + dim, index, rows)

    return _folded(x, add)


class _Picked(SingleLevel):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.dim, ctx.size = dim, x.shape[dim]
        return wrap(_pick(unwrap(x), dim, index))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        return _add(g, ctx.dim, index, ctx.size), None, None


class _Added(SingleLevel):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, index: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(index)
        ctx.dim = dim
        return wrap(_add(unwrap(x), dim, index, size))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        return _pick(g, ctx.dim, index), None, None, None


OPERATIONS: dict[Callable[..., Any], Operation] = {
    **{
        f: Operation(form=partial(index_select, f))
        for f in (torch.index_select, Tensor.index_select)
    },
    **{
        f: Operation(form=partial(index_add, f))
        for f in (torch.index_add, Tensor.index_add, Tensor.index_add_)
    },
}
