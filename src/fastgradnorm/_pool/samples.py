"""Which samples of the pool are scored, in which order, and where in the pool they are."""

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from fastgradnorm._pool.loaders import made_anew
from fastgradnorm._validate import fail_type

# Draws of their own, apart from those of label maps, which the same seed makes.
_SUBSET_STREAM = 1


@dataclass(frozen=True)
class Pool:
    """Samples to be scored.

    Either any of them can be loaded by themselves, from a dataset with indices, or the pool can
    only be read from its beginning.

    Attributes:
        loader: The caller's, or one built in its place.
        order: Where in the loader's dataset each sample it yields is, int64 `[N]`; or None.
        indices: Where in the caller's pool each is, int64 `[N]`; None: in the places they come.
        total: How many samples `loader` yields, if known.
        sieve: Which of a stream are scored; None: all that `loader` yields.
    """

    loader: Iterable[Any]
    order: Tensor | None = None
    indices: Tensor | None = None
    total: int | None = None
    sieve: "Sieve | None" = None

    def at(self, places: Tensor) -> "Pool":
        """The samples at `places` of what this pool yields, as a pool of their own.

        Raises:
            ValueError: If the pool can only be read from its beginning.
        """
        if self.order is None or not isinstance(self.loader, DataLoader):
            raise ValueError(
                "`loader` must be a DataLoader over a dataset with a length and indices. Got one "
                "that can only be read from its beginning."
            )
        loader = _over(self.loader, self.order[places].tolist())
        indices = places if self.indices is None else self.indices[places]
        order = torch.arange(len(places))
        return replace(self, loader=loader, order=order, indices=indices, total=len(places))

    def after(self, sizes: Sequence[int]) -> Iterator[Any] | None:
        """What follows batches of these sizes, without loading them; None if they must be read."""
        if self.order is None or self.total is None or not isinstance(self.loader, DataLoader):
            return None
        whole = self.loader.batch_size
        if any(size != whole for size in sizes[:-1]):
            return None
        if not sizes or (sizes[-1] != whole and sum(sizes) < self.total):
            return None
        return iter(_over(self.loader, self.order[sum(sizes) :].tolist()))

    def places(self, start: int, size: int) -> tuple[Tensor | None, Tensor | None]:
        """Of the next batch, the samples to score (None: all) and where in the pool they are.

        Args:
            start: Samples read before it.
            size: Of the batch.
        """
        if self.sieve is not None:
            keep = self.sieve.next(size)
            return keep, keep + start
        return None, None if self.indices is None else self.indices[start : start + size]


class Sieve:
    """Draws each sample of a stream with one probability; a draw depends on its index alone."""

    def __init__(self, fraction: float, seed: int) -> None:
        self._fraction = fraction
        self._generator = _generator(seed)

    def next(self, size: int) -> Tensor:
        """Which of the next `size` samples are kept, int64."""
        drawn = self._generator.random(size) < self._fraction
        return torch.from_numpy(drawn.nonzero()[0])


def make_pool(loader: Any, subset: int | float | None, seed: int) -> Pool:
    """The pool behind `loader`, or a random part of it.

    Raises:
        TypeError: If `loader` is not an iterable of batches.
        ValueError: If `subset` asks for more than there is, or for a number of samples of a loader
            that must be read to its end to know how many there are.
    """
    if isinstance(loader, (str, bytes)) or not isinstance(loader, Iterable):
        raise fail_type("loader", "an iterable of batches", loader)
    if isinstance(loader, Tensor):
        raise fail_type(
            "loader", "an iterable of batches", loader, "Wrap one batch in a list: `[batch]`."
        )
    order = _order(loader)
    if subset is None:
        shuffled = _warn_if_shuffled(loader)
        order = None if shuffled else order
        return Pool(loader, order, total=_length(loader) if order is None else len(order))
    if order is None:
        if isinstance(subset, int):
            raise ValueError(
                "`subset` must be a fraction for a loader that can only be read from its "
                f"beginning. Got {subset}. Pass a DataLoader over a dataset with a length and "
                "indices, or a float in (0, 1]: each sample is then drawn with that probability."
            )
        return Pool(loader, total=_length(loader), sieve=Sieve(subset, seed))
    count = subset if isinstance(subset, int) else max(1, math.floor(subset * len(order) + 0.5))
    if count > len(order):
        raise ValueError(
            f"`subset` must be at most the size of the pool, {len(order)}. Got {count}. "
            "Leave it at None to score all."
        )
    drawn = _generator(seed).choice(len(order), count, replace=False)
    return Pool(loader, order).at(torch.from_numpy(np.sort(drawn)))


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox([seed, _SUBSET_STREAM]))


def _order(loader: object) -> Tensor | None:
    """Dataset positions of a loader's samples, in pool order, if each can be loaded by itself.

    For a shuffled loader, which has no order that lasts, that of its dataset.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    if not isinstance(loader.dataset, Sized) or loader.batch_size is None:
        return None
    if type(loader.batch_sampler) is not BatchSampler:
        return None
    if type(loader.sampler) not in (SequentialSampler, RandomSampler):
        return None  # one of the caller's own may yield anything
    order = torch.arange(len(loader.dataset))
    if loader.drop_last:
        order = order[: len(order) // loader.batch_size * loader.batch_size]
    return order


def _over(loader: DataLoader[Any], order: Sequence[int]) -> DataLoader[Any]:
    """The same loader over other samples of its dataset, in batches as large."""
    return made_anew(loader, Subset(loader.dataset, order), batch_size=loader.batch_size)


def _length(loader: Any) -> int | None:
    with contextlib.suppress(TypeError, AttributeError, NotImplementedError):
        return len(loader.dataset)
    return None


def _warn_if_shuffled(loader: object) -> bool:
    shuffled = isinstance(getattr(loader, "sampler", None), RandomSampler)
    if shuffled:
        warnings.warn(
            "`loader` shuffles, so that scores come in an order that cannot be traced back to the "
            "dataset. Use shuffle=False.",
            stacklevel=4,
        )
    return shuffled
