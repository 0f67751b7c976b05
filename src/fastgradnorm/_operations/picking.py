"""Picking by a mask: how many are picked is read as a branch is, on which samples must agree.

The shape of what `x[mask]` or `nonzero` gives depends on values, which vmap refuses. Where each
sample has as many (one end of text, as many frames), it is an index like any other: the places that
are picked, in order, by a stable sort.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from fastgradnorm_kernels import functorch
from torch import Tensor

from fastgradnorm._operations.numbered import COPIED, numbered
from fastgradnorm._operations.operation import Operation
from fastgradnorm._operations.others import set_masked
from fastgradnorm._operations.writing import is_behind, write


def _is_mask(value: Any) -> bool:
    mask = isinstance(value, Tensor) and value.dtype == torch.bool
    return mask and functorch.is_batched_anywhere(value)


def _places(mask: Tensor) -> tuple[Tensor, ...]:
    """The index of each dimension `[count]`, as of `nonzero`."""
    count = int(mask.sum())
    flat = torch.sort((~mask).flatten().to(torch.uint8), stable=True).indices[:count]
    found = []
    for size in reversed(mask.shape):
        found.append(flat % size)
        flat = flat // size
    return tuple(reversed(found))


def _indices(index: Any) -> tuple[Any, ...] | None:
    """An index with places for masks; None if there is none that differs between samples."""
    parts = tuple(index) if isinstance(index, (tuple, list)) else (index,)
    if not any(map(_is_mask, parts)):
        return None
    found: list[Any] = []
    for part in parts:
        found.extend(_places(part) if _is_mask(part) and part.dim() else [part])
    return tuple(found)


def picked(tensor: Tensor, index: Any) -> Tensor | None:
    """`tensor[index]` for an index with masks or numbers that differ between samples, else None."""
    indices = _indices(index)
    if indices is not None:
        return tensor[indices]
    numbers = numbered(tensor, index)
    if numbers is None:
        return None
    found = tensor[numbers.without]
    for dim, number in reversed(numbers.places):
        found = found.movedim(dim, 0)[number.reshape(1)].squeeze(0)
        setattr(found, COPIED, True)
    return found


def put(tensor: Tensor, index: Any, value: Any) -> Tensor | None:
    """`tensor[index] = value` for such an index, else None."""
    done = set_masked(tensor, index, value)
    indices = _indices(index) if done is None else None
    numbers = numbered(tensor, index) if done is None and indices is None else None
    if done is None and indices is None and numbers is None:
        parts = tuple(index) if isinstance(index, tuple) else (index,)
        indices = parts if is_behind(parts) else None
    if indices is None and numbers is None:
        return done
    if indices is not None or numbers is None:
        write(tensor, indices or (), value)
        return tensor
    target = tensor[numbers.without]
    for dim, number in reversed(numbers.places[1:]):  # one is left, by which to write
        target = target.select(dim, int(number))
    for dim, number in numbers.places[:1]:
        # In front: with an index behind a slice vmap takes the values' dimensions in another order.
        target.movedim(dim, 0)[number.reshape(1)] = value
    if not numbers.places:  # of slices alone, which have been read
        target[...] = value
    return tensor


def index_put_(
    input: Tensor, indices: Sequence[Tensor], values: Tensor, accumulate: bool = False
) -> Tensor | None:
    """`Tensor.index_put_` by such an index, else None."""
    if not accumulate:
        return put(input, tuple(indices) if len(indices) > 1 else indices[0], values)
    places = _indices(indices)
    return None if places is None else input.index_put_(places, values, accumulate=True)


def index_put(
    input: Tensor, indices: Sequence[Tensor], values: Tensor, accumulate: bool = False
) -> Tensor | None:
    """`torch.index_put`, likewise."""
    differing = [part for part in indices if functorch.is_batched_anywhere(part)]
    if not differing:
        return None
    # One that all samples share cannot be written to for each.
    zero = torch.zeros_like(differing[0].flatten()[:1].sum(), dtype=input.dtype)
    copy = input | zero if input.dtype == torch.bool else input + zero
    return index_put_(copy, indices, values, accumulate)


def masked_select(input: Tensor, mask: Tensor) -> Tensor | None:
    """`torch.masked_select` by a mask that differs between samples, else None."""
    if not _is_mask(mask):
        return None
    input, mask = torch.broadcast_tensors(input, mask)
    return input.flatten()[_places(mask.flatten())[0]]


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Tensor | tuple[Tensor, ...] | None:
    """`torch.nonzero` of what differs between samples, else None."""
    if not functorch.is_batched_anywhere(input) or input.dim() == 0:
        return None
    places = _places(input != 0)
    return places if as_tuple else torch.stack(places, 1)


def argwhere(input: Tensor) -> Any:
    """`torch.argwhere`, likewise."""
    return nonzero(input)


def where(condition: Tensor, *values: Any, **named: Any) -> Any:
    """`torch.where` of a condition alone, likewise."""
    return None if values or named else nonzero(condition, as_tuple=True)


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """`torch.unique` of values that differ between samples, else None; always sorted."""
    if dim is not None or not functorch.is_batched_anywhere(input) or input.numel() == 0:
        return None
    values, order = input.detach().flatten().sort(stable=True)
    found = _runs(values, return_inverse, return_counts)
    if return_inverse:
        inverse = torch.zeros_like(found[1]).scatter(0, order, found[1])
        found[1] = inverse.view(input.shape)
    return found[0] if len(found) == 1 else tuple(found)


def unique_consecutive(
    input: Tensor,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """`torch.unique_consecutive`, likewise."""
    if dim is not None or not functorch.is_batched_anywhere(input) or input.numel() == 0:
        return None
    found = _runs(input.detach().flatten(), return_inverse, return_counts)
    if return_inverse:
        found[1] = found[1].view(input.shape)
    return found[0] if len(found) == 1 else tuple(found)


def _runs(values: Tensor, with_places: bool, with_counts: bool) -> list[Tensor]:
    """The first of each run of equal `values`, the run of each, and how long they are."""
    first = torch.cat([torch.ones_like(values[:1], dtype=torch.bool), values[1:] != values[:-1]])
    runs, (starts,) = first.long().cumsum(0) - 1, _places(first)
    found = [values[starts]]
    if with_places:
        found.append(runs)
    if with_counts:
        found.append(torch.diff(starts, append=torch.full_like(starts[:1], len(values))))
    return found


OPERATIONS: dict[Callable[..., Any], Operation] = {
    torch.Tensor.__getitem__: Operation(opened=picked),
    torch.Tensor.__setitem__: Operation(opened=put),
    torch.index_put: Operation(opened=index_put),
    torch.index_put_: Operation(opened=index_put_),
    torch.Tensor.index_put: Operation(opened=index_put),
    torch.Tensor.index_put_: Operation(opened=index_put_),
    torch.masked_select: Operation(opened=masked_select),
    torch.Tensor.masked_select: Operation(opened=masked_select),
    torch.nonzero: Operation(opened=nonzero),
    torch.Tensor.nonzero: Operation(opened=nonzero),
    torch.argwhere: Operation(opened=argwhere),
    torch.Tensor.argwhere: Operation(opened=argwhere),
    torch.where: Operation(opened=where),
    torch.unique_consecutive: Operation(opened=unique_consecutive),
    torch.Tensor.unique_consecutive: Operation(opened=unique_consecutive),
    torch.unique: Operation(opened=unique),
    torch.Tensor.unique: Operation(opened=unique),
}
