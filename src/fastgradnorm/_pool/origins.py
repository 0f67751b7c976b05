"""Samples that two loaders share, told by where they come from: datasets, and parts of them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
)

from fastgradnorm._pool.draws import as_indices
from fastgradnorm._pool.loaders import can_be_indexed, draws_of, sampler_of, without_adapter

# Of these each sample of the dataset is drawn, sooner or later, or on another rank.
_OF_ALL = (SequentialSampler, RandomSampler, WeightedRandomSampler)


def shared_samples(pool: Any, labelled: Any) -> tuple[Tensor, bool] | None:
    """Which samples of the dataset of a pool are also those of a loader of labelled ones.

    Samples are the same where both loaders read one dataset, by itself or through `Subset` and
    `ConcatDataset`, or rows of one table of Hugging Face. Nothing is read but indices.

    Args:
        pool: A loader.
        labelled: A loader.

    Returns:
        Indices of the pool's dataset, in order, and whether `labelled` has no others; None where
        that cannot be told, or they have none in common.
    """
    pool, labelled = without_adapter(pool), without_adapter(labelled)
    if not (can_be_indexed(pool) and can_be_indexed(labelled)):
        return None
    numbers = _Numbers()
    theirs, mine = numbers.of(pool.dataset), numbers.of(labelled.dataset)
    if theirs is None or mine is None or pool.batch_sampler is None:
        return None
    drawn = _drawn(labelled, len(mine))
    if drawn is None:
        return None
    mine = mine[drawn]
    both = torch.isin(theirs, mine)
    if not bool(both.any()):
        return None
    return both.nonzero().flatten(), bool(torch.isin(mine, theirs).all())


def _drawn(loader: Any, size: int) -> Tensor | None:
    """Which samples of its dataset a loader draws, where that does not follow from chance."""
    if loader.batch_sampler is None:
        return None
    draws = draws_of(loader)
    sampler = sampler_of(draws)
    if isinstance(sampler, _OF_ALL) or hasattr(sampler, "num_replicas"):
        return torch.arange(size, device="cpu")
    keys = [as_indices(batch) for batch in draws]
    if not keys or any(each is None for each in keys):
        return None
    found = torch.cat([each for each in keys if each is not None])
    return found.remainder(size).unique() if _within(found, size) else None


class _Numbers:
    """A number for each sample, equal where it is the same sample of the same dataset."""

    def __init__(self) -> None:
        self._roots: dict[Any, tuple[Any, int]] = {}  # a dataset is kept, so is its id
        self._count = 0

    def of(self, dataset: Any) -> Tensor | None:
        """Of the samples of a dataset, int64 `[n]`; None: it does not say how many it has."""
        if isinstance(dataset, Subset) and len(dataset) == len(dataset.indices):
            inner = self.of(dataset.dataset)
            taken = _integers(dataset.indices)
            if inner is not None and taken is not None and _within(taken, len(inner)):
                return inner[taken]
        if isinstance(dataset, ConcatDataset):
            parts = [part for each in dataset.datasets if (part := self.of(each)) is not None]
            return torch.cat(parts) if len(parts) == len(dataset.datasets) else None
        if hasattr(dataset, "column_names") and hasattr(dataset, "_indices"):
            return self._rows(dataset)
        size = len(dataset) if hasattr(dataset, "__len__") else None
        return None if size is None else self._from(id(dataset), dataset, size)

    def _rows(self, dataset: Any) -> Tensor | None:
        """Of Hugging Face: parts of a dataset are views of its table, which lies in memory once."""
        if not dataset.column_names:
            return None
        found = []
        for chunk in dataset.data.column(0).chunks:
            buffers = [each for each in chunk.buffers() if each is not None]
            if not buffers:  # of nothing but missing values, of which one is like another
                return None
            where = tuple(each.address for each in buffers)
            # A slice does not tell how long the whole is.
            found.append(self._from(where, buffers, len(chunk), 1 << 40) + chunk.offset)
        rows = torch.cat(found) if found else torch.empty(0, dtype=torch.int64, device="cpu")
        if dataset._indices is None:
            return rows
        return rows[torch.from_numpy(dataset._indices.column(0).to_numpy().astype(np.int64))]

    def _from(self, root: Any, kept: Any, size: int, most: int | None = None) -> Tensor:
        if root not in self._roots:
            self._roots[root] = kept, self._count
            self._count += most or size
        start = self._roots[root][1]
        return torch.arange(start, start + size, device="cpu")


def _integers(indices: Any) -> Tensor | None:
    if isinstance(indices, (Tensor, np.ndarray, range)):
        found = torch.as_tensor(np.asarray(indices), device="cpu")
        whole = found.ndim == 1 and "int" in str(found.dtype)
        return found.long() if whole else None
    return as_indices(indices) if isinstance(indices, Iterable) else None


def _within(taken: Tensor, size: int) -> bool:
    return bool(((taken >= -size) & (taken < size)).all())
