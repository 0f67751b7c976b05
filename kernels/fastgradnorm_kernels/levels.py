"""Samples and cotangents taken out of vmap's wrappers by hand, and put back.

PyTorch asks a custom operator or function in Python what vmap shall do with it, anew at every level
of nesting and every call: tenths of a millisecond, which for small batches are most of the time.
The engine nests in one way only, so that its own operations can look into the wrappers themselves.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from fastgradnorm_kernels import functorch
from fastgradnorm_kernels.functorch import outside as outside

# Samples, and the derivative: transforms nested deeper are the model's.
_OWN_LEVELS = 2

_forwards, _own = threading.local(), threading.local()


def set_own_levels(levels: int) -> int:
    """From now on, in this thread, transforms nested deeper than so many levels are the model's.

    Where the engine takes no derivative, one of the model's own has the level that its would have.

    Returns:
        What was said before.
    """
    before: int = getattr(_own, "levels", _OWN_LEVELS)
    _own.levels = min(levels, _OWN_LEVELS)
    return before


@contextmanager
def forwards() -> Iterator[None]:
    """Derivatives are taken forwards inside, which light functions have none for."""
    before, _forwards.active = getattr(_forwards, "active", False), True
    try:
        yield
    finally:
        _forwards.active = before


class Bare(NamedTuple):
    """A tensor without its wrappers.

    Attributes:
        tensor: With the dimensions of all its levels among its own.
        places: Which dimension is that of a level, by level from the outermost `vmap`.
    """

    tensor: Tensor
    places: dict[int, int]

    def fronted(self) -> Tensor:
        """With the dimensions of its levels first, in their order."""
        return self.tensor.movedim(tuple(self.places.values()), tuple(range(len(self.places))))


def bare(tensor: Tensor) -> Bare | None:
    """What is inside the wrappers of `vmap`; None if a derivative is being taken of it.

    None also where nobody can look.
    """
    if not functorch.works():
        return None
    tensor, dims = functorch.unbatched(tensor)
    if functorch.is_wrapped(tensor):
        return None
    if tensor.requires_grad and torch.is_grad_enabled():
        return None
    left = list(range(tensor.dim()))
    return Bare(tensor, {level: left.pop(dim) for level, dim in reversed(dims)})


def is_differentiated(*tensors: Tensor | None) -> bool | None:
    """Whether a derivative is taken of the tensors, right here and nowhere else.

    None where light functions do not apply: outside of transforms if derivatives are taken there,
    inside of the model's own, which may take a derivative of what is pulled back here, and where
    derivatives are taken `forwards`.
    """
    if getattr(_forwards, "active", False):
        return None
    level = functorch.current_level()
    if level is None:
        return False if functorch.works() and not torch.is_grad_enabled() else None
    if level > _OWN_LEVELS:
        return None
    found = False
    for tensor in tensors:
        if tensor is None:
            continue
        tensor = functorch.alive(tensor)
        if functorch.is_differentiable(tensor) and functorch.level_of(tensor) == level:
            if level > getattr(_own, "levels", _OWN_LEVELS):
                return None
            if not tensor.requires_grad and unpack_dual(tensor).tangent is not None:
                return None  # by the model's own `jvp`
            found, tensor = True, functorch.unwrap(tensor)
        if bare(tensor) is None:
            return None
    return found


def wrapped(tensor: Tensor, levels: Sequence[int]) -> Tensor:
    """A tensor whose first dimensions are those of `levels`, from the outermost `vmap`."""
    for level in levels:
        tensor = functorch.batched(tensor, level)
    return tensor


class Aligned(NamedTuple):
    """Tensors whose first dimensions are those of `levels`, expanded where one had none."""

    tensors: list[Tensor | None]
    levels: tuple[int, ...]
    sizes: tuple[int, ...]


def aligned(*tensors: Tensor | None) -> Aligned | None:
    """Bare tensors with the levels of all; None if a derivative is being taken of one."""
    insides = [None if t is None else bare(t) for t in tensors]
    if any(i is None and t is not None for i, t in zip(insides, tensors, strict=True)):
        return None
    sizes: dict[int, int] = {}
    for inside in insides:
        if inside is not None:
            sizes |= {level: inside.tensor.shape[place] for level, place in inside.places.items()}
    levels = tuple(sorted(sizes))

    def align(inside: Bare | None) -> Tensor | None:
        if inside is None:
            return None
        tensor = inside.fronted()
        for i, level in enumerate(levels):
            if level not in inside.places:
                tensor = tensor.unsqueeze(i)
        return tensor.expand(*(sizes[level] for level in levels), *tensor.shape[len(levels) :])

    return Aligned([align(i) for i in insides], levels, tuple(sizes[level] for level in levels))


def is_of_another(tensor: Tensor, level: int | None) -> bool:
    """Whether a transform within that of `level` wraps the tensor, or one that has ended.

    Where that cannot be told, any transform is taken for another.
    """
    if not functorch.works():
        return functorch.is_transforming()
    found = functorch.level_of(tensor)
    return found < functorch.NO_LEVEL or found > (level or 0)
