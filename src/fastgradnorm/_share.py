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
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)


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
    """Deals the batches of a loader.

    Of a dataset that can be indexed, a rank reads its own share only, with the loader's workers and
    collation. Anything else is read whole on every rank.

    Raises:
        ValueError: If `loader` shuffles.
    """
    loader = getattr(loader, "base_dataloader", loader)  # accelerate's loaders stand before one
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        return _of_iterable(loader, rank, world)
    if isinstance(loader.dataset, IterableDataset):
        return _of_iterable(_without_shard(loader), rank, world)
    return _of_dataset(loader, rank, world)


def _of_iterable(loader: Iterable[Any], rank: int, world: int) -> Share:
    items = iter(loader)
    head = list(islice(items, 1))
    return Share(
        islice(chain(head, items), rank, None, world), "as iterated", head[0] if head else None
    )


def _of_dataset(loader: DataLoader[Any], rank: int, world: int) -> Share:
    draws, order = _whole_order(loader)
    head = list(islice(draws, 1))
    batched = loader.batch_sampler is not None
    # One sample of the pool's first batch goes ahead, through the same workers, for comparison.
    dealt = _Dealt([batch[:1] for batch in head] if batched else head, draws, rank, world)
    how: dict[str, Any] = {"batch_sampler": dealt} if batched else {"sampler": dealt}
    if not batched:
        how["batch_size"] = None  # the dataset makes batches itself
    items = iter(DataLoader(loader.dataset, **how, **_kept(loader)))
    return Share(items, order, next(items, None))


class _Dealt:
    """Keys of the batches of one rank, after those of `head`."""

    def __init__(self, head: list[Any], draws: Iterable[Any], rank: int, world: int) -> None:
        self.head, self.draws, self.rank, self.world = head, draws, rank, world

    def __iter__(self) -> Iterator[Any]:
        return chain(self.head, islice(self.draws, self.rank, None, self.world))


def _whole_order(loader: DataLoader[Any]) -> tuple[Iterable[Any], str]:
    """Keys of every batch of the pool, as one process would draw them, and a description."""
    draws: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if type(draws).__name__ == "BatchSamplerShard":  # accelerate's: every W-th batch, and padding
        draws = draws.batch_sampler
    sampler = getattr(draws, "sampler", draws)
    if hasattr(sampler, "num_replicas"):  # a distributed sampler: every W-th sample, and padding
        sampler = SequentialSampler(loader.dataset)  # type: ignore[arg-type]
        if draws is not getattr(draws, "sampler", draws):
            draws = copy.copy(draws)
            draws.sampler = sampler
        else:
            draws = sampler
    if isinstance(sampler, RandomSampler):
        raise ValueError(
            "`loader` must not shuffle where several ranks share it: scores could not be traced "
            f"back to samples. Got a {type(sampler).__name__}. Use shuffle=False."
        )
    if type(draws) is BatchSampler and type(sampler) is SequentialSampler:
        # Told without listing the samples of a large pool.
        return draws, f"{len(sampler)} in order, by {draws.batch_size}, {draws.drop_last}"
    keys = [list(batch) for batch in draws] if loader.batch_sampler is not None else list(draws)
    return keys, hashlib.sha256(repr(keys).encode()).hexdigest()


def _without_shard(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader of an iterable dataset, without accelerate's shard between the two."""
    shard: Any = loader.dataset
    if type(shard).__name__ != "IterableDatasetShard":
        return loader
    return DataLoader(
        shard.dataset, batch_size=shard.batch_size, drop_last=shard.drop_last, **_kept(loader)
    )


def _kept(loader: DataLoader[Any]) -> dict[str, Any]:
    """What a loader is made with, but for its dataset, order and batches."""
    names = ("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "generator")
    more = ("multiprocessing_context", "prefetch_factor", "in_order")
    return {name: getattr(loader, name) for name in (*names, *more)}
