"""What a model is given of a batch beside its samples, and whether two batches share it."""

import enum
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = frozenset({bool, bytes, float, int, str, type(None)})
# What is one thing wherever it stands, and is not changed by who reads batches.
_LASTING = (
    BuiltinFunctionType,
    FunctionType,
    ModuleType,
    enum.Enum,
    nn.Module,
    torch.device,
    torch.dtype,
    type,
)


@dataclass(frozen=True)
class Given:
    """Calls a model on samples in the container of their batch, with all else that is in it.

    Attributes:
        names: Place of each leaf in the batch.
        values: Each leaf; None where the samples go.
        places: Where those go, in order.
        close: Puts all leaves into a container like the batch's.
        call: Calls a model on that.
        form: Equal where containers are alike.
        beside: What containers hold beside leaves.
    """

    names: tuple[str, ...]
    values: tuple[Any, ...]
    places: tuple[int, ...]
    close: Callable[[Sequence[Any]], Any]
    call: Callable[[nn.Module, Any], Any]
    form: Any
    beside: tuple[tuple[str, Any], ...]

    def __call__(self, model: nn.Module, leaves: Sequence[Tensor]) -> Any:
        return self.call(model, self.close(self.fill(leaves)))

    @functools.cached_property
    def kind(self) -> Any:
        """Equal for calls that differ in tensors of samples alone; None where that is not known.

        It is where all else that the model is given is plain values.
        """
        shared = self._shared()
        if any(type(value) not in PLAIN for _, value in shared):
            return None
        told = tuple((name, type(value), repr(value)) for name, value in shared)  # 1 is not True
        found = self.names, self.places, self.form, told
        try:
            hash(found)
        except TypeError:  # of a container that PyTorch was told of
            return None
        return found

    def fill(self, leaves: Sequence[Tensor]) -> list[Any]:
        """All leaves, with those of the samples; there may be more of them than places."""
        filled = list(self.values)
        for place, leaf in zip(self.places, leaves[: len(self.places)], strict=True):
            filled[place] = leaf
        return filled

    def differs(self, other: "Given") -> str | None:
        """What of another batch is not the same, in words; None: samples of both may be mixed."""
        if self.names != other.names or self.places != other.places or self.form != other.form:
            return "what they hold"
        pairs = zip(self._shared(), other._shared(), strict=True)
        for (name, mine), (_, theirs) in pairs:
            if not _same(mine, theirs):
                return f"`batch{name}`"
        return None

    def kept(self) -> "Given":
        """The same, of its own: a loader may write its next batch into the memory of this one."""
        return replace(self, values=tuple(map(_copy, self.values)))

    def _shared(self) -> Sequence[tuple[str, Any]]:
        places = set(self.places)
        pairs = zip(self.names, self.values, strict=True)
        return [pair for i, pair in enumerate(pairs) if i not in places] + list(self.beside)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return value.copy() if type(value) is np.ndarray else value


def _same(mine: Any, theirs: Any) -> bool:
    """Whether two things are one, as far as this can be said of things of their kind."""
    if type(mine) is not type(theirs):
        return False
    if type(mine) is Tensor:
        alike = mine.dtype == theirs.dtype and mine.shape == theirs.shape
        return alike and mine.layout == theirs.layout == torch.strided and torch.equal(mine, theirs)
    if type(mine) is np.ndarray:
        alike = mine.dtype == theirs.dtype and not mine.dtype.hasobject
        return alike and bool(np.array_equal(mine, theirs))
    if type(mine) in PLAIN or isinstance(mine, np.generic):
        return bool(mine == theirs)
    return isinstance(mine, _LASTING) and mine is theirs
