"""Values put where a mask or an index says, which PyTorch does sample by sample under vmap.

Each function takes the arguments of the operation it stands for and gives the same values.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.in_place import copied_back
from fastgradnorm._operations.operation import Operation

_MANY = 1 << 22  # comparisons, from which on PyTorch sorts


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`torch.masked_fill`, which has no rule for values that are tensors."""
    if not isinstance(value, Tensor) or value.dim():
        return torch.masked_fill(input, mask, value)
    return torch.where(mask, value.to(input.dtype), input)


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """`torch.masked_scatter`: as of images among the embeddings of a text."""
    input, mask = torch.broadcast_tensors(input, mask)
    numbers = input.is_floating_point() or input.is_complex()
    empty = source.numel() == 0  # as of a text without images: no place is to be filled
    if mask.dtype != torch.bool or source.dtype != input.dtype or (empty and not numbers):
        return torch.masked_scatter(input, mask, source)
    if empty:  # PyTorch refuses a place without a value; what made none has a gradient of zero
        return torch.where(mask, source.sum() + math.nan, input)
    places = mask.flatten().long().cumsum(0) - 1
    values = source.flatten()[places.clamp(min=0)]
    return torch.where(mask, values.view(mask.shape), input)


def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """`torch.put`."""
    flat = input.flatten().index_put((index,), source.reshape(index.shape), accumulate)
    return flat.view(input.shape)


def isin(
    elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False
) -> Tensor:
    """`torch.isin` of a few elements: as of the words that have a meaning of their own."""
    both = isinstance(elements, Tensor) and isinstance(test_elements, Tensor)
    if not both or elements.numel() * test_elements.numel() > _MANY:
        return torch.isin(elements, test_elements, assume_unique=assume_unique, invert=invert)
    found: Tensor = (elements[..., None] == test_elements.flatten()).any(-1)
    return ~found if invert else found


def max_unpool(
    function: Callable[..., Tensor],
    dims: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """`function`, one of PyTorch's over `dims` dimensions."""
    kernel = _each(kernel_size, dims)
    stride = kernel if stride is None else _each(stride, dims)
    given = zip(input.shape[-dims:], kernel, stride, _each(padding, dims), strict=True)
    sizes = [(size - 1) * s + k - 2 * p for size, k, s, p in given]
    if output_size is not None:
        asked = [*output_size][-dims:]
        if not all(n - s < a < n + s for a, n, s in zip(asked, sizes, stride, strict=False)):
            return function(input, indices, kernel_size, stride, padding, output_size)
        sizes = asked
    flat, index = input.flatten(-dims), indices.flatten(-dims)
    empty = flat.new_zeros(*flat.shape[:-1], math.prod(sizes))
    found: Tensor = empty.scatter(-1, index, flat).unflatten(-1, sizes)
    return found


def _each(value: Any, dims: int) -> list[int]:
    return [*value] if isinstance(value, (tuple, list)) else [value] * dims


def _forms() -> dict[Callable[..., Any], Callable[..., Any]]:
    found: dict[Callable[..., Any], Callable[..., Any]] = {}
    for owner in (torch, Tensor):
        found |= {owner.masked_fill: masked_fill, owner.masked_scatter: masked_scatter}
    found |= {torch.put: put, Tensor.put: put, torch.isin: isin}
    found |= {Tensor.masked_scatter_: partial(copied_back, masked_scatter)}
    for dims, function in enumerate((F.max_unpool1d, F.max_unpool2d, F.max_unpool3d), 1):
        found[function] = partial(max_unpool, function, dims)
    return found


OPERATIONS: dict[Callable[..., Any], Operation] = {
    function: Operation(form=form) for function, form in _forms().items()
}
