"""Which sample of its dataset each score is of: told by what the loader's sampler draws."""

import warnings
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import RandomSampler, SubsetRandomSampler

from fastgradnorm._pool.collation import own_order
from fastgradnorm._pool.columns import Columns
from fastgradnorm._pool.loaders import (
    CALLED,
    can_be_indexed,
    draws_of,
    sampler_of,
    without_adapter,
)

_CHOICES = (SubsetRandomSampler, list, tuple, range, np.ndarray, Tensor)


class Placement:
    """Where the scores of a run belong, gathered batch by batch, and told at its end.

    Args:
        loader: The caller's.
        function: Whose result is bare scores, without a place for indices; None: it has one.
    """

    def __init__(self, loader: Any, function: str | None = None) -> None:
        self._loader, self._function = loader, function
        self._columns, self._count, self._placed = Columns(), 0, 0
        self._sequence = True
        self._looked = False
        self._sorts: str | None = None  # what of the loader has an order of its own

    def add(self, indices: Tensor | None, count: int) -> None:
        """Notes the next batch. Bare scores in another order are warned of at once."""
        start, self._count = self._count, self._count + count
        if indices is None:
            return
        if not self._looked:
            self._looked = True
            self._sorts = own_order(without_adapter(self._loader), indices)
        if self._sorts is not None:
            return
        self._placed += count
        self._columns.add("indices", indices)
        expected = torch.arange(start, self._count, device="cpu")
        if self._sequence and not torch.equal(indices, expected):
            self._sequence = False
            if self._function is not None:
                place = int((indices != expected).nonzero()[0])
                self._warn_of_order(start + place, int(indices[place]))

    def indices(self, *, always: bool = False) -> Tensor | None:
        """`[N]`, or None: they are 0 to N - 1 (and not wanted `always`), or unknown."""
        if (self._sequence and not always) or self._placed < self._count:
            return None
        return self._columns.get("indices")

    def judge(self, size: int | None, lost: str | None) -> dict[str, int | None]:
        """Warns of scores that cannot be traced, of samples left out and of such that came again.

        Args:
            size: Samples of the dataset, if it is known.
            lost: Why scores cannot be traced, if so.

        Returns:
            What there is to tell of the count.
        """
        told = {"scored": self._count, "dataset": size}
        lost = self._sorts if lost is None else lost
        if lost is not None:
            warnings.warn(
                f"`{CALLED.get()}` gave scores that cannot be traced to samples of its dataset: "
                f"{lost}. scores[i] may be of another sample than dataset[i]. Draw batches of "
                "integer indices, of which the collation keeps each sample.",
                stacklevel=4,
            )
            return told
        found = self._columns.get("indices") if self._placed == self._count else None
        if size is None or (found is None and self._count == size):
            return told
        if found is None:
            warnings.warn(
                f"`{CALLED.get()}` gave {self._count} scores, for a dataset that says it has "
                f"{size} samples{_by_workers(self._loader)}. scores[i] may be of another sample "
                "than the dataset's i-th.",
                stacklevel=4,
            )
            return told
        distinct = len(found.remainder(size).unique())
        again, missing = self._count - distinct, size - distinct
        told["repeated"] = again
        if again or (missing and not _is_choice(self._loader)):
            warnings.warn(
                f"`{CALLED.get()}` gave {self._count} scores for a dataset of {size} samples: "
                f"{missing} were left out, {again} came again{_by_sampler(self._loader)}. "
                "`PoolScores.indices` tells which sample each score is of.",
                stacklevel=4,
            )
        return told

    def _warn_of_order(self, place: int, index: int) -> None:
        warnings.warn(
            f"`{CALLED.get()}` {_what_it_does(self._loader)}, so that scores come in another order "
            f"than the dataset's: `{self._function}` gives them in that of the loader, in which "
            f"number {place} is of dataset[{index}]. Use shuffle=False, or "
            "`GradNormScorer(model).score(loader)`, whose `indices` tell which sample each score "
            "is of.",
            stacklevel=5,
        )


def _sampler(loader: Any) -> Any:
    loader = without_adapter(loader)
    return sampler_of(draws_of(loader)) if can_be_indexed(loader) else None


def _what_it_does(loader: Any) -> str:
    sampler = _sampler(loader)
    if isinstance(sampler, RandomSampler):
        return "shuffles"
    return f"draws by a {type(sampler).__name__}"


def _is_choice(loader: Any) -> bool:
    """Whether the caller named the samples that are drawn, so that others are left out on purpose.

    Not if a batch that is not whole is dropped.
    """
    loader = without_adapter(loader)
    if not can_be_indexed(loader):
        return False
    draws, sampler = draws_of(loader), _sampler(loader)
    if getattr(draws, "drop_last", False) and isinstance(sampler, Sized):
        return len(sampler) % draws.batch_size == 0 and isinstance(sampler, _CHOICES)
    return isinstance(sampler, _CHOICES)


def _by_sampler(loader: Any) -> str:
    loader = without_adapter(loader)
    if not can_be_indexed(loader):
        return ""
    draws, sampler = draws_of(loader), _sampler(loader)
    if getattr(draws, "drop_last", False):
        return ", by drop_last=True: a pool should be read to its end"
    if hasattr(sampler, "num_replicas"):
        return ", by a distributed sampler, which gives each process a share and fills it up"
    return f", by a {type(sampler).__name__}"


def _by_workers(loader: Any) -> str:
    workers = getattr(loader, "num_workers", 0)
    if workers < 2:
        return ""
    return (
        f". It has {workers} workers, each of which reads all of an iterable dataset that does not "
        "share itself out by torch.utils.data.get_worker_info()"
    )


class EqualWorkers:
    """A loader of an iterable dataset, warning where two workers yield the same.

    Args:
        loader: With several workers, which yield batches in turn.
        alike: What is equal where batches are.
    """

    def __init__(self, loader: Any, alike: Callable[[Any], Any]) -> None:
        self._loader, self._alike = loader, alike
        self.dataset = loader.dataset

    def __iter__(self) -> Iterator[Any]:
        first: Any = None
        for number, batch in enumerate(self._loader):
            if number < 2:
                this = self._alike(batch)
                if number and this == first:
                    self._warn()
                first = this
            yield batch
            del batch  # before the next one is there

    def _warn(self) -> None:
        warnings.warn(
            f"`{CALLED.get()}` yields the same first batch from two of its "
            f"{self._loader.num_workers} workers, so that samples are scored more than once. An "
            "iterable dataset must share itself out by torch.utils.data.get_worker_info(). Use "
            "num_workers=0 otherwise.",
            stacklevel=3,
        )


def in_words(indices: Sequence[int], most: int = 8) -> str:
    """The first of them."""
    return ", ".join(map(str, indices[:most])) + (", ..." if len(indices) > most else "")
