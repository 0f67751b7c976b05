"""Samples and cotangents as more rows of a batch, and where its channels lie in memory."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from fastgradnorm_kernels.levels import bare, outside, wrapped
from torch import Tensor


class Rows(NamedTuple):
    """A batch `[B, C, *]` under vmap as one of all samples and cotangents.

    Attributes:
        tensor: `[N * B, C, *]`, without wrappers.
        sizes: Of the levels of vmap.
        levels: Which they are, in the order in which they lie in memory: no copy is made for it.
    """

    tensor: Tensor
    sizes: tuple[int, ...]
    levels: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor) -> "Rows":
        """Of a tensor of which no derivative is being taken."""
        inside = bare(x)
        assert inside is not None
        count, tensor = len(inside.places), inside.tensor
        levels = sorted(inside.places, key=lambda level: -tensor.stride(inside.places[level]))
        places = [inside.places[level] for level in levels]
        with outside():
            rows = tensor.movedim(places, list(range(count)))
            return cls(rows.flatten(0, count), tuple(rows.shape[:count]), tuple(levels))

    def apply(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """What `function` makes of the rows, under vmap again."""
        order = sorted(self.levels)
        with outside():
            output = function(self.tensor).unflatten(0, (*self.sizes, -1))
            output = output.movedim([self.levels.index(l) for l in order], list(range(len(order))))
        return wrapped(output, order)


def layout(tensor: Tensor) -> torch.memory_format:
    """Of a plain tensor `[B, C, *]`: channels last, or else contiguous, which may mean a copy."""
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not tensor.is_contiguous() else torch.contiguous_format


def position_rows(x: Tensor) -> Tensor:
    """`[B, C, *space]` as `[B * positions, C]`, a view where B is 1."""
    return x.flatten(2).mT[0] if len(x) == 1 and x.dim() > 2 else x.movedim(1, -1).flatten(0, -2)
