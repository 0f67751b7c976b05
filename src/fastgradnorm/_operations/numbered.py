"""Indices that hold numbers which differ between samples: `hidden[i, length]`, `row[:length]`.

PyTorch reads such a number, which vmap refuses. One of a place is an index of one element instead.
One of where a slice ends is read as a branch is, for it gives a shape.
"""

from typing import Any, NamedTuple

import torch
from fastgradnorm_kernels import functorch
from torch import Tensor

COPIED = "_fastgradnorm_copied"  # attribute of a tensor that would have been a view
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8)
_PLAIN = (int, slice, type(None), type(Ellipsis))


class Numbered(NamedTuple):
    """An index, taken apart.

    Attributes:
        without: It, with all of a dimension where a number stands.
        places: Dimensions of what that gives, and the numbers.
    """

    without: tuple[Any, ...]
    places: list[tuple[int, Tensor]]


def _is_number(value: Any) -> bool:
    whole = isinstance(value, Tensor) and value.dim() == 0 and value.dtype in _WHOLE
    return whole and functorch.is_batched_anywhere(value)


def _is_read(part: Any) -> bool:
    return isinstance(part, slice) and any(map(_is_number, (part.start, part.stop, part.step)))


def _read(part: Any) -> Any:
    ends = (part.start, part.stop, part.step)
    return slice(*(int(end) if _is_number(end) else end for end in ends))


def numbered(tensor: Tensor, index: Any) -> Numbered | None:
    """An index of a tensor with such numbers, taken apart; None if it has none."""
    parts = tuple(index) if isinstance(index, tuple) else (index,)
    if not any(_is_number(part) or _is_read(part) for part in parts):
        return None
    parts = tuple(_read(part) if _is_read(part) else part for part in parts)
    if not all(type(part) in _PLAIN or _is_number(part) for part in parts):
        # Beside lists and tensors of several numbers.
        return Numbered(tuple(int(p) if _is_number(p) else p for p in parts), [])
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    without, places, dim = list[Any](), list[tuple[int, Tensor]](), 0
    for part in parts:
        number = _is_number(part)
        without.append(slice(None) if number else part)
        if number:
            places.append((dim, part))
        if part is Ellipsis:
            dim += tensor.dim() - taken
        elif number or part is None or isinstance(part, slice):
            dim += 1
    return Numbered(tuple(without), places)
