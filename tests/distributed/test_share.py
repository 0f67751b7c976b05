"""The shares of all ranks, put together, are the batches of one process, each once."""

import copy
from itertools import zip_longest

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler

from fastgradnorm._pool.shares import share, whole_pool
from tests.support import pools

WORLDS = [1, 2, 3, 8, 11]  # of 8 batches


def dealt(loaders):
    """Batches of the ranks in turn."""
    shares = [share(each, rank, len(loaders)) for rank, each in enumerate(loaders)]
    assert len({one.order for one in shares}) == 1
    parts = [list(one.batches) for one in shares]
    return [b for row in zip_longest(*parts) for b in row if b is not None]


def assert_same(found, expected):
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    "make",
    [
        pools.loader,
        pools.streamed,
        pools.unbatched,
        pools.ragged,
        lambda: iter(pools.ragged()),
        lambda: pools.loader(drop_last=True),
        lambda: pools.loader(batch_size=1),
        lambda: pools.loader(batch_size=100),
        lambda: pools.loader(sampler=list(range(30, 3, -2))),
        lambda: pools.loader(batch_size=1, batch_sampler=[[5, 4, 3], [2], [7, 7]]),
    ],
    ids=[
        *("loader", "iterable", "unbatched", "list", "iterator"),
        *("drop-last", "by-one", "one-batch", "backwards", "batch-sampler"),
    ],
)
def test_every_batch_once_and_in_order(make, world):
    assert_same(dealt([make() for _ in range(world)]), list(make()))


@pytest.mark.parametrize("world", WORLDS[1:])
@pytest.mark.parametrize("shuffle", [True, False])
def test_distributed_samplers_are_undone(world, shuffle):
    """Also those that shuffle or repeat samples: the whole dataset, in order."""
    loaders = [
        pools.loader(sampler=DistributedSampler(pools.Rows(), world, rank, shuffle=shuffle))
        for rank in range(world)
    ]
    before = copy.deepcopy([list(loader.sampler) for loader in loaders])
    assert_same(dealt(loaders), list(pools.loader()))
    assert [list(loader.sampler) for loader in loaders] == before


def test_a_distributed_sampler_of_batches_is_undone():
    samplers = [DistributedSampler(range(8), 2, rank) for rank in range(2)]
    make = [[*range(i, min(i + 5, 37))] for i in range(0, 37, 5)]

    class Made(torch.utils.data.Dataset):
        def __len__(self):
            return len(make)

        def __getitem__(self, i):
            return pools.inputs()[make[i]]

    loaders = [DataLoader(Made(), sampler=sampler, batch_size=None) for sampler in samplers]
    assert_same(dealt(loaders), list(pools.inputs().split(5)))


def test_loaders_of_one_process_are_left_as_they_are():
    for loader in (pools.loader(), pools.loader(shuffle=True), pools.streamed(), pools.ragged()):
        assert whole_pool(loader) is loader


def test_only_the_own_share_is_read():
    """And one sample more, for comparison between ranks."""
    read = []

    class Noted(pools.Rows):
        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)

    list(share(DataLoader(Noted(), 10, collate_fn=pools.first_column), 1, 2).batches)
    assert read == [0, *range(10, 20), *range(30, 37)]


def test_a_loader_that_iterates_in_its_own_way_is_read_as_it_is():
    class Doubled(DataLoader):
        def __iter__(self):
            for batch in super().__iter__():
                yield from (batch, batch)

    loaders = [Doubled(pools.Rows(), 10, collate_fn=pools.first_column) for _ in range(2)]
    found = dealt(loaders)
    assert len(found) == 8
    assert torch.equal(found[2], found[3])


def test_orders_that_differ_are_told_apart():
    orders = {
        share(make(), 0, 2).order
        for make in (
            pools.loader,
            lambda: pools.loader(batch_size=6),
            lambda: pools.loader(drop_last=True),
            lambda: pools.loader(sampler=list(range(37))),
            lambda: pools.loader(sampler=list(range(36))),
            lambda: DataLoader(pools.Rows(rows=pools.inputs()[1:]), 5),
        )
    }
    assert len(orders) == 6


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": True},
        {"batch_sampler": BatchSampler(RandomSampler(range(37)), 5, False), "batch_size": 1},
    ],
)
def test_shuffled_loaders_are_refused(options):
    with pytest.raises(ValueError, match=r"`loader` must not shuffle .* Got a RandomSampler"):
        share(pools.loader(**options), 0, 2)
