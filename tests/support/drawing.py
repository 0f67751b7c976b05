"""Every way to draw samples of a dataset, for tests of where scores belong."""

import warnings

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from fastgradnorm import GradNormScorer, PoolScores
from tests.support.asserts import assert_close_relative

N, SIZE = 23, 4


class Rows(Dataset):
    """Inputs, and each one's own index as the label."""

    def __init__(self, inputs):
        self.inputs = inputs

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, i):
        return self.inputs[i], i


class Every(Sampler):
    """One of a user's own: every so manieth, from the end."""

    def __init__(self, step):
        self.step = step

    def __iter__(self):
        yield from range(N - 1, -1, -self.step)

    def __len__(self):
        return -(-N // self.step)


class Hard(Sampler):
    """One that yields batches, of several sizes, without a length, always in the same list."""

    def __iter__(self):
        order, batch = torch.randperm(N).tolist(), []
        for size in (5, 1, 9, 8):
            batch[:] = order[:size]
            del order[:size]
            yield batch


def of(dataset, sampler=None, **options):
    return DataLoader(dataset, SIZE, sampler=sampler, **options)


def batches(dataset, draws, **options):
    return DataLoader(dataset, batch_sampler=draws, **options)


# Each: from a dataset to a loader, and whether what it leaves out or repeats is warned of.
WAYS = {
    "shuffle": (lambda d: of(d, shuffle=True), False),
    "shuffle, workers": (lambda d: of(d, shuffle=True, num_workers=2), False),
    "workers as they come": (lambda d: of(d, shuffle=True, num_workers=2, in_order=False), False),
    "generator": (
        lambda d: of(d, shuffle=True, generator=torch.Generator().manual_seed(3)),
        False,
    ),
    "subset at random": (lambda d: of(d, SubsetRandomSampler([3, 8, 20, 1, 15])), False),
    "subset at random, tensor": (
        lambda d: of(d, SubsetRandomSampler(torch.tensor([7, 5, 6, 2, 9, 0]))),
        False,
    ),
    "weighted": (lambda d: of(d, WeightedRandomSampler([1.0] * 3 + [0.1] * 20, 30)), True),
    "replacement": (lambda d: of(d, RandomSampler(d, replacement=True, num_samples=N)), True),
    "fewer at random": (lambda d: of(d, RandomSampler(d, num_samples=9)), True),
    "own": (lambda d: of(d, Every(1)), False),
    "own that drops": (lambda d: of(d, Every(2)), True),
    "list": (lambda d: of(d, [4, 2, 20]), False),
    "list that repeats": (lambda d: of(d, [4, 2, 2, 20]), True),
    "list from the end": (lambda d: of(d, range(N - 1, -1, -1)), False),
    "array": (lambda d: of(d, np.array([4, 2, 20])), False),
    "tensor": (lambda d: of(d, torch.tensor([9, 4, 20, 2, 11])), False),
    "share": (lambda d: of(d, DistributedSampler(d, 3, 1, shuffle=False)), True),
    "shuffled share": (lambda d: of(d, DistributedSampler(d, 2, 0, seed=4)), True),
    "one share": (lambda d: of(d, DistributedSampler(d, 1, 0)), False),
    "padded share": (lambda d: of(d, DistributedSampler(d, 8, 7, shuffle=False)), True),
    "batches": (lambda d: batches(d, BatchSampler(RandomSampler(d), 5, False)), False),
    "batches, dropped": (lambda d: batches(d, BatchSampler(RandomSampler(d), 5, True)), True),
    "own batches": (lambda d: batches(d, Hard()), False),
    "own batches, workers": (lambda d: batches(d, Hard(), num_workers=2), False),
    "lists of batches": (lambda d: batches(d, [[5, 4], [1], [2, 0, 3]]), False),
    "batches of arrays": (lambda d: batches(d, [np.array([5, 4]), np.array([1])]), False),
    "no batches": (
        lambda d: DataLoader(
            Joined(d), batch_size=None, sampler=BatchSampler(RandomSampler(d), 6, False)
        ),
        False,
    ),
    "dropped": (lambda d: of(d, drop_last=True, shuffle=True), True),
    "Subset": (lambda d: of(Subset(d, [*range(N - 1, 4, -1)]), shuffle=True), False),
    "Subset of a Subset": (
        lambda d: of(Subset(Subset(d, range(20)), [9, 3, 7, 11, 5]), [4, 1, 0]),
        False,
    ),
    "TensorDataset": (lambda d: of(TensorDataset(d.inputs), shuffle=True), False),
    "persistent workers": (
        lambda d: of(d, Every(1), num_workers=1, persistent_workers=True),
        False,
    ),
}


class Joined(Rows):
    """A dataset that makes batches itself, of lists of indices; and single samples."""

    def __init__(self, rows):
        super().__init__(rows.inputs)

    def __getitem__(self, i):
        return self.inputs[i]


def told(function, *args, **options):
    """The result, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*args, **options)
    ours = [str(each.message) for each in caught if "`loader`" in str(each.message)]
    return result, ours


def scored(model, loader, **options):
    return told(GradNormScorer(model, progress=False, **options).score, loader)


def indices_of(result):
    return result.indices if isinstance(result, PoolScores) else None


def assert_traced(result, dataset, pool):
    """Each score is that of the sample of the dataset that the index tells."""
    _, inputs, exact = pool
    index = result.indices if result.indices is not None else torch.arange(len(result))
    rows = torch.stack([_input(dataset[int(i)]) for i in index])
    places = [int((inputs == row).all(1).nonzero()[0]) for row in rows]
    assert_close_relative(result.values, exact[places], 1e-5)


def _input(item):
    return item[0] if isinstance(item, tuple) else item


def leaving_out(items):
    """A collation that does not keep every sample."""
    return default_collate([item for item in items if item[1] % 5])
