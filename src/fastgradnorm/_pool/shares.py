"""One rank's share of a pool: a loader undone of any sharing of its own, and dealt batch by batch.

Distributed samplers and accelerate's loaders pad their shares by repeating samples. So the whole
pool's batches are found again behind them, and rank r of W takes batches r, r + W, r + 2W, ...:
the batches of one process, each scored once.
"""

import copy
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeGuard

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from fastgradnorm._pool.loaders import made_anew


@dataclass(frozen=True)
class Share:
    """What one rank reads.

    Attributes:
        batches: This rank's batches, in pool order.
        order: Describes the order of the whole pool; the same on every rank.
        first: The first sample or batch of the whole pool; the same on every rank. None: no batch.
    """

    batches: Iterator[Any]
    order: str
    first: Any


def share(loader: Iterable[Any], rank: int, world: int) -> Share:
    """Deals the batches of the whole pool.

    Of a dataset that can be indexed, a rank reads its own share only, with the loader's workers and
    collation. Anything else is read whole on every rank.

    Raises:
        ValueError: If `loader` shuffles.
    """
    loader = whole_pool(loader)
    if _can_be_indexed(loader):
        return _of_dataset(loader, rank, world)
    items = iter(loader)
    head = list(islice(items, 1))
    batches = islice(chain(head, items), rank, None, world)
    return Share(batches, "as iterated", head[0] if head else None)


def whole_pool(loader: Iterable[Any]) -> Iterable[Any]:
    """The loader that one process would read: without shares, and without what fills them up.

    Undone are accelerate's loaders (in their own order) and distributed samplers (in the dataset's
    order).
    """
    loader = getattr(loader, "base_dataloader", loader)  # accelerate's loaders stand before one
    if isinstance(loader, DataLoader) and type(loader.dataset).__name__ == "IterableDatasetShard":
        shard: Any = loader.dataset
        how = {"batch_size": shard.batch_size, "drop_last": shard.drop_last}
        return made_anew(loader, shard.dataset, **how)
    if not _can_be_indexed(loader):
        return loader
    given = draws = _draws(loader)
    if type(draws).__name__ == "BatchSamplerShard":  # accelerate's: every W-th batch, and padding
        draws = draws.batch_sampler
    sampler = getattr(draws, "sampler", None)
    if hasattr(draws, "num_replicas"):  # a distributed sampler: every W-th sample, and padding
        draws = SequentialSampler(loader.dataset)  # type: ignore[arg-type]
    elif hasattr(sampler, "num_replicas"):
        draws = copy.copy(draws)
        draws.sampler = SequentialSampler(loader.dataset)  # type: ignore[arg-type]
    return loader if draws is given else _with_draws(loader, draws)


def _can_be_indexed(loader: Iterable[Any]) -> TypeGuard[DataLoader[Any]]:
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and type(loader).__iter__ is DataLoader.__iter__
    )


def _draws(loader: DataLoader[Any]) -> Any:
    """What yields the keys of each batch: lists, or what the dataset makes a batch of itself."""
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def _with_draws(loader: DataLoader[Any], draws: Any) -> DataLoader[Any]:
    """The same loader of other batches."""
    if loader.batch_sampler is None:
        return made_anew(loader, loader.dataset, batch_size=None, sampler=draws)
    return made_anew(loader, loader.dataset, batch_sampler=draws)


def _of_dataset(loader: DataLoader[Any], rank: int, world: int) -> Share:
    draws, order = _in_order(loader)
    head = list(islice(draws, 1))
    if loader.batch_sampler is not None:
        head = [batch[:1] for batch in head]
    # One sample of the pool's first batch goes ahead, through the same workers, for comparison.
    items = iter(_with_draws(loader, _Dealt(head, draws, rank, world)))
    return Share(items, order, next(items, None))


class _Dealt:
    """Keys of the batches of one rank, after those of `head`."""

    def __init__(self, head: list[Any], draws: Iterable[Any], rank: int, world: int) -> None:
        self.head, self.draws, self.rank, self.world = head, draws, rank, world

    def __iter__(self) -> Iterator[Any]:
        return chain(self.head, islice(self.draws, self.rank, None, self.world))


def _in_order(loader: DataLoader[Any]) -> tuple[Iterable[Any], str]:
    """Keys of every batch of the pool, and a description of their order."""
    draws = _draws(loader)
    sampler = getattr(draws, "sampler", draws)
    if isinstance(sampler, RandomSampler):
        raise ValueError(
            "`loader` must not shuffle where several ranks share it: scores could not be traced "
            f"back to samples. Got a {type(sampler).__name__}. Use shuffle=False."
        )
    if type(draws) is BatchSampler and type(sampler) is SequentialSampler:
        # Told without listing the samples of a large pool.
        return draws, f"{len(sampler)} in order, by {draws.batch_size}, {draws.drop_last}"
    keys = list(draws) if loader.batch_sampler is None else [list(batch) for batch in draws]
    return keys, hashlib.sha256(repr(keys).encode()).hexdigest()
