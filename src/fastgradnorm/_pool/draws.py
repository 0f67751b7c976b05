"""A loader's sampler, of which is written down which samples of the dataset make which batch."""

import itertools
import operator
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor


def written_down(keys: Iterable[Any], waiting: deque[Any]) -> Iterator[Any]:
    """The same keys, each of which waits for its batch from when it is drawn."""
    for key in keys:
        # A sampler may yield one list again and again, with other numbers in it.
        kept = list(key) if isinstance(key, list) else key
        waiting.append(kept)
        yield kept


class Draws:
    """A sampler, of which is written down what a loader takes.

    Workers are handed keys by the process that iterates, ahead of their batches and in order.

    Args:
        keys: The sampler: keys of a batch, or of samples that are a batch each.
        places: Where in the caller's dataset is what a key tells; None: there.
        each: How many samples a batch of the caller's has, several of which are drawn as one, but
            for the last; None: each comes by itself.

    Attributes:
        lost: Why scores cannot be traced to samples any more, if so.
    """

    def __init__(
        self, keys: Iterable[Any], places: Tensor | None = None, each: int | None = None
    ) -> None:
        self._keys, self._places, self.each = keys, places, each
        self._waiting: deque[Any] = deque()
        self._batches = 0
        self.lost: str | None = None

    def __iter__(self) -> Iterator[Any]:
        return written_down(self._keys, self._waiting)

    def skip(self) -> None:
        """Leaves a batch out."""
        if self._waiting:
            self._waiting.popleft()

    def size(self, count: int = 1) -> int | None:
        """How many samples were drawn for the next batches, if it is known."""
        keys = itertools.islice(self._waiting, count) if self.lost is None else ()
        sizes = [
            len(key) if isinstance(key, Sized) and not isinstance(key, (str, bytes)) else None
            for key in keys
        ]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == count else None

    def next(self, size: int, count: int = 1) -> Tensor | None:
        """Where in the caller's dataset the samples of the next batches are, int64 `[size]`.

        None where the dataset makes whole batches, or it is lost.

        Args:
            size: How many they have together, each as many as the others.
            count: How many batches.
        """
        if count > 1 and self.lost is None and (keys := self._of_integers(size, count)) is not None:
            places = torch.tensor(keys, dtype=torch.int64, device="cpu")
            return places if self._places is None else self._places[places]
        found = [self._next(size // count) for _ in range(count)]
        known = [each for each in found if each is not None]
        if len(known) < count:
            return None
        return known[0] if count == 1 else torch.cat(known)

    def _of_integers(self, size: int, count: int) -> list[int] | None:
        """The keys of the next batches as those of one, where all are lists of integers."""
        keys = [*itertools.islice(self._waiting, count)]
        if set(map(type, keys)) != {list} or {*map(len, keys)} != {size // count}:
            return None
        joined = [*itertools.chain.from_iterable(keys)]
        if len(keys) < count or set(map(type, joined)) != {int}:
            return None
        for _ in keys:
            self._waiting.popleft()
        self._batches += count
        return joined

    def _next(self, size: int) -> Tensor | None:
        if self.lost is not None:
            return None
        if not self._waiting:
            self.lose("it yields more batches than its sampler draws")
            return None
        key, number = self._waiting.popleft(), self._batches
        self._batches += 1
        if _is_index(key):  # a whole batch, of samples that have no index
            if operator.index(key) != number:
                self.lose("its dataset holds whole batches, which it draws in an order of its own")
            return None
        indices = as_indices(key)
        if indices is None:
            self.lose(f"its sampler draws {_shown(key)}, which are no indices")
            return None
        if len(indices) != size:
            self.lose(f"its collation made a batch of {size} samples from {len(indices)} indices")
            return None
        return indices if self._places is None else self._places[indices]

    def lose(self, why: str) -> None:
        """Scores cannot be traced from here on."""
        self.lost = self.lost or why


def _is_index(key: Any) -> bool:
    if isinstance(key, (Tensor, np.ndarray)) and key.ndim:
        return False
    return hasattr(type(key), "__index__") and not isinstance(key, bool)


def as_indices(keys: Any) -> Tensor | None:
    """A batch's keys as int64, or None if they are no indices."""
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        return None
    if isinstance(keys, (Tensor, np.ndarray)):
        keys = keys.tolist()
    found = list(keys)
    if set(map(type, found)) <= {int}:
        return torch.tensor(found, dtype=torch.int64, device="cpu")
    if not all(map(_is_index, found)):
        return None
    return torch.tensor([operator.index(key) for key in found], dtype=torch.int64, device="cpu")


def _shown(key: Any, most: int = 40) -> str:
    text = repr(key)
    return text if len(text) <= most else text[: most - 3] + "..."
