"""The model and the pools that several processes share in these tests. 37 divides by nothing."""

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler

import fastgradnorm
from tests.support.cases import MLP

N, SIZE = 37, 5
SCHEMES = tuple(fastgradnorm.SCHEMES)


def seeded(make, seed=0):
    """A module of its own seed, in whatever process."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def mlp(seed=0):
    return seeded(MLP, seed)


def normed(means):
    """A model whose batch norm has the given running mean, as ranks have after training."""

    def make():
        return nn.Sequential(nn.Linear(10, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))

    model = seeded(make)
    model[1].running_mean.fill_(means)
    return model


def dense():
    """Labels at several positions: scores are estimated, with standard errors."""
    return seeded(lambda: nn.Sequential(nn.Unflatten(1, (2, 5)), nn.Conv1d(2, 40, 1)))


def inputs():
    return torch.randn(N, 10, generator=torch.Generator().manual_seed(1))


class Rows(Dataset):
    """A dataset that can be indexed; fails at the given index."""

    def __init__(self, fails_at=None, rows=None):
        self.rows = inputs() if rows is None else rows
        self.fails_at = fails_at

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        if i == self.fails_at:
            raise OSError(f"row {i} cannot be read")
        return {"x": self.rows[i], "label": 0}


class Stream(IterableDataset):
    """The same rows, which can only be iterated."""

    def __iter__(self):
        return iter(inputs())


class Batches(Dataset):
    """Makes batches itself, from lists of indices."""

    def __getitem__(self, indices):
        return inputs()[indices]


def first_column(rows):
    """A collation of one's own: the inputs alone."""
    return torch.stack([row["x"] for row in rows])


def loader(**options):
    return DataLoader(Rows(), **{"batch_size": SIZE, "collate_fn": first_column, **options})


def streamed():
    return DataLoader(Stream(), batch_size=SIZE)


def unbatched():
    order = BatchSampler(SequentialSampler(range(N)), SIZE, drop_last=False)
    return DataLoader(Batches(), sampler=order, batch_size=None)


def ragged():
    """A list of batches, the last ones empty and of one sample."""
    return list(inputs().split([6, 1, 9, 5, 15, 0, 1]))
