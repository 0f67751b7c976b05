"""Which samples of the pool are scored, in which order, and where in the pool they are."""

import contextlib
import itertools
import math
import warnings
from collections.abc import Iterable, Sized
from dataclasses import dataclass, replace
from typing import Any, cast

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
    SubsetRandomSampler,
)

from fastgradnorm._errors import ArgumentError
from fastgradnorm._pool.collation import collated
from fastgradnorm._pool.draws import Draws, as_indices
from fastgradnorm._pool.failing import telling_when
from fastgradnorm._pool.identity import likeness
from fastgradnorm._pool.loaders import (
    CALLED,
    can_be_indexed,
    check_loader,
    draws_of,
    hidden_draws,
    in_sequence,
    made_anew,
    sampler_of,
    without_adapter,
)
from fastgradnorm._pool.order import EqualWorkers
from fastgradnorm._pool.places import watched_order
from fastgradnorm._pool.reading import Reading, traced

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
        indices: Where in the caller's dataset is each sample of the loader's, int64 `[N]`; None:
            it is the same dataset.
        total: How many samples `loader` yields, if known.
        sieve: Which of a stream are scored; None: all that `loader` yields.
        size: How many samples the caller's dataset has, if known.
        draws: Tells the samples of a loader that is read already; None: it is not.
        dataset: The caller's, if there is one.
    """

    loader: Iterable[Any]
    order: Tensor | None = None
    indices: Tensor | None = None
    total: int | None = None
    sieve: "Sieve | None" = None
    size: int | None = None
    draws: Draws | None = None
    dataset: Any = None

    def at(self, places: Tensor) -> "Pool":
        """The samples at `places` of what this pool yields, as a pool of their own.

        Raises:
            ValueError: If the pool can only be read from its beginning.
        """
        if self.order is None or not isinstance(self.loader, DataLoader):
            raise ArgumentError(
                "`loader` must be a DataLoader over a dataset with a length and indices. Got one "
                "that can only be read from its beginning.",
                "loader",
            )
        chosen = self.order[places]
        indices = chosen if self.indices is None else self.indices[chosen]
        order, loader = torch.arange(len(places), device="cpu"), _over(self.loader, chosen)
        return replace(self, loader=loader, order=order, indices=indices, total=len(places))

    def open(self, together: bool = False) -> Reading:
        """Begins to read.

        Args:
            together: Whether several batches may come as one: small ones, where that is quicker.
        """
        if self.draws is not None:
            return Reading(collated(iter(self.loader)), self.draws)
        if not can_be_indexed(self.loader):
            batches = telling_when(collated(iter(self.loader)))
            return Reading(watched_order(self.loader, batches), None)
        return traced(self.loader, self.dataset, self.indices, together)

    def after(self, read: int) -> tuple[Reading, int] | None:
        """What is left after so many samples, from the beginning of a batch, and where that is.

        Nothing before that is loaded. None if it must be.
        """
        if self.order is None or self.total is None or not isinstance(self.loader, DataLoader):
            return None
        whole = self.loader.batch_size
        if whole is None or read > self.total:
            return None
        start = read if read == self.total else read // whole * whole
        left = self.order[start:]
        indices = left if self.indices is None else self.indices[left]
        return traced(_over(self.loader, left), self.dataset, indices), start

    def sieved(self, size: int, places: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Of the next batch, the samples to score (None: all) and where in the pool they are.

        Args:
            size: Of the batch.
            places: Where in the pool its samples are; None: unknown.
        """
        if self.sieve is None:
            return None, places
        keep = self.sieve.next(size)
        return keep, None if places is None else places[keep]


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
    check_loader(loader)
    loader = without_adapter(loader)
    _warn_if_hidden(loader)
    size, dataset = _length(loader), getattr(loader, "dataset", None)
    if _has_equal_workers(loader):
        loader = EqualWorkers(loader, likeness)
    if subset is None:
        ordered = can_be_indexed(loader) and in_sequence(draws_of(loader))
        order = _order(loader) if ordered else None
        return Pool(loader, order, total=_yielded(loader), size=size, dataset=dataset)
    order = _order(loader)
    if order is None:
        if isinstance(subset, int):
            raise ArgumentError(
                "`subset` must be a fraction for a loader that can only be read from its "
                f"beginning. Got {subset}. Pass a DataLoader over a dataset with a length and "
                "indices, or a float in (0, 1]: each sample is then drawn with that probability.",
                "subset",
            )
        sieve = Sieve(subset, seed)
        return Pool(loader, total=_yielded(loader), sieve=sieve, size=size, dataset=dataset)
    count = subset if isinstance(subset, int) else max(1, math.floor(subset * len(order) + 0.5))
    if count > len(order):
        raise ArgumentError(
            f"`subset` must be at most the size of the pool, {len(order)}. Got {count}. "
            "Leave it at None to score all.",
            "subset",
        )
    drawn = _generator(seed).choice(len(order), count, replace=False)
    return Pool(loader, order, size=size, dataset=dataset).at(torch.from_numpy(np.sort(drawn)))


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox([seed, _SUBSET_STREAM]))


def _order(loader: object) -> Tensor | None:
    """Dataset positions of a loader's samples, in pool order, if each can be loaded by itself.

    For a sampler that only shuffles, which has no order that lasts, that of what it shuffles.
    """
    if not can_be_indexed(loader) or not isinstance(loader.dataset, Sized):
        return None
    if loader.batch_sampler is None:  # the dataset makes the batches
        return None
    draws, size = draws_of(loader), len(loader.dataset)
    sampler: Any = getattr(draws, "sampler", None)
    if type(draws) is not BatchSampler:
        return _listed(draws)
    shuffles = type(sampler) is RandomSampler and not sampler.replacement
    if type(sampler) is SequentialSampler or (shuffles and len(sampler) == size):
        order = torch.arange(size, device="cpu")
    elif type(sampler) is SubsetRandomSampler:
        order = torch.tensor(
            [int(index) for index in sampler.indices], dtype=torch.int64, device="cpu"
        )
    else:
        return _listed(draws)
    return order[: len(order) // draws.batch_size * draws.batch_size] if draws.drop_last else order


def _listed(draws: Any) -> Tensor | None:
    """Indices that a sampler of batches draws to its end, if it says that it has one."""
    try:
        batches = list(itertools.islice(draws, len(draws)))
    except (TypeError, NotImplementedError):
        return None
    found = [as_indices(batch) for batch in batches]
    if not found or any(indices is None for indices in found):
        return None
    return torch.cat([indices for indices in found if indices is not None])


def _over(loader: DataLoader[Any], order: Tensor) -> DataLoader[Any]:
    """The same loader over other samples of its dataset, in batches as large."""
    size = loader.batch_size
    if size is None:  # of a batch sampler of its own
        draws = draws_of(loader)
        size = getattr(draws, "batch_size", None) or max(map(len, itertools.islice(draws, 1)))
    return made_anew(loader, Subset(loader.dataset, order.tolist()), batch_size=size)


def _length(loader: Any) -> int | None:
    """Samples of the dataset, if it knows. One of whole batches does not."""
    if isinstance(loader, DataLoader) and loader.batch_sampler is None:
        keys = draws_of(loader)
        if not (type(keys) is BatchSampler or isinstance(keys, BatchSampler)):
            return None
    with contextlib.suppress(TypeError, AttributeError, NotImplementedError):
        return len(cast("Sized", loader.dataset))
    return None


def _yielded(loader: Any) -> int | None:
    """Samples that a loader yields, if it knows."""
    if can_be_indexed(loader) and type(draws := draws_of(loader)) is BatchSampler:
        with contextlib.suppress(TypeError, NotImplementedError):
            count = len(draws.sampler)  # type: ignore[arg-type]
            return count // draws.batch_size * draws.batch_size if draws.drop_last else count
    return _length(loader)


def _has_equal_workers(loader: Any) -> bool:
    """Whether workers may each read the whole of an iterable dataset."""
    stream = isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset)
    return stream and loader.num_workers > 1


def _warn_if_hidden(loader: Any) -> None:
    """Of a loader within another iterable, whose order cannot be told."""
    if can_be_indexed(loader):
        return
    draws = hidden_draws(loader)
    if draws is not None and not in_sequence(draws):
        sampler = type(sampler_of(draws)).__name__
        how = "which shuffles" if sampler == "RandomSampler" else f"which draws by a {sampler}"
        warnings.warn(
            f"`{CALLED.get()}` (a {type(loader).__name__}) reads a DataLoader {how}, so that "
            "scores come in an order that cannot be traced back to the dataset. Pass the "
            "DataLoader itself, for `PoolScores.indices`, or use shuffle=False.",
            stacklevel=4,
        )


def nothing_to_score(subset: int | float | None) -> str:
    """What to tell where no sample was scored."""
    if isinstance(subset, float):
        return (
            f"`subset` must leave samples to score. Got {subset}, by which none of the pool's was "
            "drawn, or an empty `loader`. Raise it, or use another `seed`."
        )
    return (
        "`loader` must yield at least one sample. Got none. A generator can be read only once; "
        "pass a DataLoader or a list."
    )
