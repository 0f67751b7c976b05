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

from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, Subset

from fastgradnorm._errors import ArgumentError
from fastgradnorm._pool.draws import Draws
from fastgradnorm._pool.loaders import can_be_indexed, draws_of, made_anew, with_draws
from fastgradnorm._pool.places import watched_order


@dataclass(frozen=True)
class Share:
    """What one rank reads.

    Attributes:
        batches: This rank's batches, in pool order.
        order: Describes the order of the whole pool; the same on every rank.
        first: The first sample or batch of the whole pool; the same on every rank. None: no batch.
        draws: Tells the samples of this rank's batches, where that can be told.
    """

    batches: Iterator[Any]
    order: str
    first: Any
    draws: Draws | None = None


def share(loader: Iterable[Any], rank: int, world: int) -> Share:
    """Deals the batches of the whole pool.

    Of a dataset that can be indexed, a rank reads its own share only, with the loader's workers and
    collation. Anything else is read whole on every rank.

    Raises:
        ValueError: If `loader` shuffles.
    """
    loader = whole_pool(loader)
    if can_be_indexed(loader):
        return _of_dataset(loader, rank, world)
    items = iter(loader) if rank else watched_order(loader, iter(loader))
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
    if not can_be_indexed(loader):
        return loader
    given = draws = draws_of(loader)
    if type(draws).__name__ == "BatchSamplerShard":  # accelerate's: every W-th batch, and padding
        draws = draws.batch_sampler
    sampler = getattr(draws, "sampler", None)
    if hasattr(draws, "num_replicas"):  # a distributed sampler: every W-th sample, and padding
        draws = SequentialSampler(loader.dataset)  # type: ignore[arg-type]
    elif hasattr(sampler, "num_replicas"):
        draws = copy.copy(draws)
        draws.sampler = SequentialSampler(loader.dataset)  # type: ignore[arg-type]
    return loader if draws is given else with_draws(loader, draws)


def _of_dataset(loader: DataLoader[Any], rank: int, world: int) -> Share:
    draws, order = _in_order(loader)
    head = list(islice(draws, 1))
    if loader.batch_sampler is not None:
        head = [batch[:1] for batch in head]
    # One sample of the pool's first batch goes ahead, through the same workers, for comparison.
    dealt = Draws(_Dealt(head, draws, rank, world))
    items = iter(with_draws(loader, dealt))
    first = next(items, None)
    dealt.skip()
    return Share(items, order, first, dealt)


class _Dealt:
    """Keys of the batches of one rank, after those of `head`."""

    def __init__(self, head: list[Any], draws: Iterable[Any], rank: int, world: int) -> None:
        self.head, self.draws, self.rank, self.world = head, draws, rank, world

    def __iter__(self) -> Iterator[Any]:
        return chain(self.head, islice(self.draws, self.rank, None, self.world))


def _in_order(loader: DataLoader[Any]) -> tuple[Iterable[Any], str]:
    """Keys of every batch of the pool, and a description of their order."""
    draws = draws_of(loader)
    sampler = getattr(draws, "sampler", draws)
    if isinstance(sampler, RandomSampler):
        raise ArgumentError(
            "`loader` must not shuffle where several ranks share it: each would have another "
            f"order. Got a {type(sampler).__name__}. Use shuffle=False.",
            "loader",
        )
    if type(draws) is BatchSampler and type(sampler) is SequentialSampler:
        # Told without listing the samples of a large pool.
        told = f"{len(sampler)} in order, by {draws.batch_size}, {draws.drop_last}"
        if isinstance(loader.dataset, Subset):
            told += f", of {_digest(list(loader.dataset.indices))}"
        return draws, told
    keys = list(draws) if loader.batch_sampler is None else [list(batch) for batch in draws]
    return keys, _digest(keys)


def _digest(keys: Any) -> str:
    return hashlib.sha256(repr(keys).encode()).hexdigest()
