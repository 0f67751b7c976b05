"""Samples that two pools have in common, by what they hold: a copy of a file has another path."""

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, DataLoader, Subset

from fastgradnorm.cli._samples import Arrays, Pool


def in_common(pool: Pool, others: Pool) -> tuple[list[int], list[int]]:
    """Samples of `pool` that `others` have too, and those of `others` that `pool` has not.

    Pictures are the same where their files hold the same bytes, texts and rows where they are
    equal. A sample that stands several times in the pool is there with each.
    """
    found = _contents(pool, others)
    if found is None:
        return [], [*range(len(others.ids))]
    mine, theirs = found
    known, here = {*theirs}, {*mine}
    both = [place for place, content in enumerate(mine) if content in known]
    return both, [place for place, content in enumerate(theirs) if content not in here]


def loader_of_both(
    pool: Pool, both: Sequence[int], others: Pool, rest: Sequence[int], size: int, workers: int
) -> "DataLoader[Any]":
    """Samples of the pool and others, as one loader that tells which are which.

    Batches are of one part each: texts of a batch are padded to one length, which each part does
    by itself.
    """
    parts = [Subset(pool.dataset, both), Subset(others.dataset, rest)]
    first, count = len(both), len(both) + len(rest)
    batches = [
        [*range(start, min(start + size, end))]
        for begin, end in ((0, first), (first, count))
        for start in range(begin, end, size)
    ]
    return DataLoader(_InParts(parts), batch_sampler=batches, num_workers=workers)


class _InParts(ConcatDataset[Any]):
    """Several datasets, of which each reads its samples of a batch at once."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        found: list[Any] = []
        begin = 0
        for part, end in zip(self.datasets, self.cumulative_sizes, strict=True):
            own = [index - begin for index in indices if begin <= index < end]
            if own:
                found.extend(part.__getitems__(own))  # type: ignore[attr-defined]  # a `Subset`
            begin = end
        return found


def _contents(pool: Pool, others: Pool) -> tuple[Sequence[Hashable], Sequence[Hashable]] | None:
    """What the samples of both hold, equal where it is the same; None where kinds differ."""
    if pool.root is not None and others.root is not None:
        sizes = _sizes(pool), _sizes(others)
        shared = {*sizes[0]} & {*sizes[1]}  # of another size is another file: nothing is read
        return _pictures(pool, sizes[0], shared), _pictures(others, sizes[1], shared)
    if pool.texts is not None and others.texts is not None:
        return pool.texts, others.texts
    mine, theirs = pool.dataset, others.dataset
    if not (isinstance(mine, Arrays) and isinstance(theirs, Arrays)):
        return None
    if len(mine.arrays) == len(theirs.arrays) == 1:  # whose name may be that of its file
        return _rows(mine, [*mine.arrays]), _rows(theirs, [*theirs.arrays])
    if mine.arrays.keys() != theirs.arrays.keys():
        return None
    return _rows(mine, [*mine.arrays]), _rows(theirs, [*mine.arrays])


def _sizes(pool: Pool) -> list[int]:
    return [pool.path(place).stat().st_size for place in range(len(pool.ids))]


def _pictures(pool: Pool, sizes: Sequence[int], shared: set[int]) -> list[Hashable]:
    found: list[Hashable] = []
    for place, size in enumerate(sizes):
        if size in shared:
            frame = str(pool.ids[place])[len(pool.files[place]) :]
            found.append((_digest(pool.path(place).read_bytes()), frame))
        else:
            found.append(pool.path(place).resolve())
    return found


def _rows(dataset: Arrays, names: Sequence[str]) -> list[Hashable]:
    arrays = [np.ascontiguousarray(dataset.arrays[name].numpy()) for name in names]
    kinds = repr([(array.dtype.str, array.shape[1:]) for array in arrays]).encode()
    return [
        _digest(kinds, *(array[place].tobytes() for array in arrays))
        for place in range(len(dataset))
    ]


def _digest(*parts: bytes) -> bytes:
    made = hashlib.sha256()
    for part in parts:
        made.update(part)
    return made.digest()
