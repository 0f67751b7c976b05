"""A sample in another's place is told by its values: of collations, and of loaders of one's own."""

import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Subset

from fastgradnorm import GradNormScorer, acquire, naive_score_pool, score_pool
from fastgradnorm._pool.shares import share

X = torch.randn(10, 5, generator=torch.Generator().manual_seed(0))
LABELLED = [(x, i % 3) for i, x in enumerate(X)]
DICTS = [{"x": x.numpy(), "name": f"row {i}", "y": i % 3} for i, x in enumerate(X)]
MODEL = nn.Linear(5, 3)


def reading(model, batch):
    while not isinstance(batch, torch.Tensor):
        batch = batch["x"] if isinstance(batch, dict) else batch[0]
    return model(batch)


def score(loader):
    return GradNormScorer(MODEL, forward=reading, progress=False).score(loader)


def swapped(samples):
    """Pairs are."""
    return [samples[i ^ 1] if i ^ 1 < len(samples) else samples[i] for i in range(len(samples))]


ORDERS = {
    "backwards": lambda samples: samples[::-1],
    "pairs swapped": swapped,
    "one left out for another": lambda samples: [*samples[:-1], samples[0]],
    "moved on": lambda samples: [*samples[1:], samples[0]],
}
ORDERED = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)


def collate(order, data=X):
    make = torch.utils.data.default_collate
    if data is DICTS:  # of inputs alone, of samples that have more
        return lambda samples: torch.stack([torch.from_numpy(s["x"]) for s in order(samples)])
    return lambda samples: make(order(samples))


@ORDERED
@pytest.mark.parametrize("data", [X, LABELLED, DICTS], ids=["tensors", "labelled", "mappings"])
def test_collations_are_told(order, data):
    with pytest.warns(UserWarning, match="cannot be traced.*collation puts the samples"):
        assert score(DataLoader(data, 4, collate_fn=collate(order, data))).indices is None


@pytest.mark.parametrize("count", [128, 300])
def test_ends_of_large_batches_are_told(count):
    """The last place, and the first, of more rows than are compared."""
    data = torch.randn(count, 5)
    for order in (lambda b: [*b[:-1], b[1]], lambda b: [b[-2], *b[1:]]):
        with pytest.warns(UserWarning, match="cannot be traced.*collation puts the samples"):
            score(DataLoader(data, count, collate_fn=collate(order)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_collation_is_told_by_workers_also():
    loader = DataLoader(X, 4, collate_fn=lambda b: torch.stack(b[::-1]), num_workers=2)
    with pytest.warns(UserWarning, match="cannot be traced.*collation puts the samples"):
        score_pool(MODEL, loader, progress=False)


DRAWN = {
    "subset": {"dataset": Subset(X, [7, 1, 3, 2, 9]), "batch_size": 4},
    "sampler": {"dataset": X, "batch_size": 4, "sampler": [3, 1, 4, 0, 5]},
    "batch sampler": {"dataset": X, "batch_sampler": BatchSampler(range(9, 0, -1), 4, False)},
}


@pytest.mark.parametrize("drawn", DRAWN.values(), ids=DRAWN)
def test_collations_are_told_whatever_is_drawn(drawn):
    loader = DataLoader(collate_fn=collate(lambda b: b[::-1]), **drawn)
    with pytest.warns(UserWarning, match="cannot be traced.*collation puts the samples"):
        assert score(loader).indices is None


class Backwards(DataLoader):
    def __iter__(self):
        return iter([*super().__iter__()][::-1])


class Wrapped:
    """Batches of a loader, changed."""

    def __init__(self, loader, change, dataset=None):
        self.loader, self.change = loader, change
        self.dataset = loader.dataset if dataset is None else dataset

    def __iter__(self):
        return iter(self.change([*self.loader]))

    def __len__(self):
        return len(self.loader)


def rows_of(order):
    return lambda batches: [b[order([*range(len(b))])] for b in batches]


def backwards(batches):
    return batches[::-1]


def wholly_backwards(batches):
    return [b.flip(0) for b in batches[::-1]]


LOADERS = {
    "a class": lambda: Backwards(X, 4),
    "of labels": lambda: Backwards(LABELLED, 4),
    "of whole batches": lambda: Backwards(X, 4, drop_last=True),
    "of mappings": lambda: Wrapped(DataLoader(DICTS, 5), backwards),
    "of a subset": lambda: Wrapped(DataLoader(Subset(X, [7, 1, 3, 2, 9]), 2), backwards),
    "one by one": lambda: Wrapped(DataLoader(X, 1), backwards),
    "batches": lambda: Wrapped(DataLoader(X, 4), backwards),
    "samples": lambda: Wrapped(DataLoader(X, 4), wholly_backwards),
    "each twice": lambda: Wrapped(
        DataLoader(X, 4), lambda batches: [b.repeat_interleave(2, 0) for b in batches]
    ),
    "begun later": lambda: Wrapped(DataLoader(X, 5), lambda batches: batches[1:] + batches[:1]),
    "of what a subset is of": lambda: Wrapped(
        DataLoader(Subset(X, [1, 0, *range(2, 10)]), 4), list, X
    ),
    **{
        name: lambda order=order: Wrapped(DataLoader(X, 4), rows_of(order))
        for name, order in ORDERS.items()
    },
}


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
@pytest.mark.filterwarnings("ignore:.*for a dataset that says it has")
def test_loaders_are_told(loader):
    with pytest.warns(UserWarning, match=r"cannot be traced.*it yields dataset\[\d\] as number"):
        score(loader())


@pytest.mark.slow
def test_every_way_is_told():
    ways = [
        lambda loader: acquire(MODEL, loader, 2),
        lambda loader: score_pool(MODEL, loader, progress=False),
        lambda loader: naive_score_pool(MODEL, loader),
        lambda loader: GradNormScorer(MODEL, subset=0.9, progress=False).score(loader),
    ]
    for way in ways:
        with pytest.warns(UserWarning, match="(pool|loader)` .a Backwards. gave scores that"):
            way(Backwards(X, 4))


def test_one_rank_tells_it():
    with pytest.warns(UserWarning, match=r"it yields dataset\[8\] as number 0"):
        share(Backwards(X, 4), 0, 2)
    share(Backwards(X, 4), 1, 2)  # a warning is an error here


class Noisy(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, i):
        return X[i] + torch.randn(5)


class Chosen(Noisy):
    """Any sample, whichever is asked for: what is read twice is not the same."""

    def __getitem__(self, i):
        return X[random.randrange(10)] if i else X[np.random.randint(10)]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class Broken(Noisy):
    def __getitem__(self, i):
        raise OSError("cannot be read by index")


class Endless(Broken):
    def __len__(self):
        raise NotImplementedError("no length")


def blanked(samples):
    """Augmented: the first is made as blank as another is."""
    return torch.stack([torch.zeros(5), *samples[1:]])


TWICE = X[[0, 1, 0, 1, 0, 1, 0, 1, 0, 1]]
UNCHANGED = {
    "the same samples": lambda: Wrapped(DataLoader(X, 4), list),
    "all alike": lambda: Backwards(X[[0] * 8], 4),
    "duplicates": lambda: Wrapped(DataLoader(TWICE, 4), backwards),
    "duplicates that a collation moves": lambda: DataLoader(
        TWICE, 4, collate_fn=lambda b: torch.stack([*b[2:], *b[:2]])
    ),
    "augmented": lambda: Wrapped(DataLoader(Noisy(), 4), list),
    "augmented by a collation": lambda: DataLoader(
        X, 4, collate_fn=lambda b: torch.stack(b) + torch.randn(len(b), 5)
    ),
    "blanked by a collation": lambda: DataLoader(
        X * (torch.arange(10) % 4 != 2)[:, None], 4, collate_fn=blanked
    ),
    "mirrored by a collation": lambda: DataLoader(
        X, 4, collate_fn=lambda b: torch.stack(b).flip(1)
    ),
    "chosen by chance": lambda: Wrapped(DataLoader(Chosen(), 4), list),
    "other labels": lambda: DataLoader(
        LABELLED, 4, collate_fn=lambda b: (torch.stack([x for x, _ in b]) * 2, torch.arange(len(b)))
    ),
    "cropped, with classes in another order": lambda: DataLoader(
        [(torch.cat([x, x]), y) for x, y in LABELLED],
        4,
        collate_fn=lambda b: (
            torch.stack([x[:5] for x, _ in b]),
            torch.tensor([2 - y for _, y in b]),
        ),
    ),
    "with another of the batch": lambda: DataLoader(
        X, 4, collate_fn=lambda b: (torch.stack(b), torch.stack(b[::-1]))
    ),
    "a stream": lambda: Backwards(Stream(), 4),
    "of samples that cannot be read": lambda: Wrapped(DataLoader(X, 4), backwards, Broken()),
    "of no length": lambda: Wrapped(DataLoader(X, 4), backwards, Endless()),
    "of names": lambda: Wrapped(DataLoader(X, 4), backwards, [*"abcdefghij"]),
}


@pytest.mark.parametrize("loader", UNCHANGED.values(), ids=UNCHANGED)
def test_others_are_not_told(loader):
    """Any warning is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score(loader())


class Counted(Dataset):
    def __init__(self):
        self.read = []

    def __len__(self):
        return 10

    def __getitem__(self, i):
        self.read.append(i)
        torch.rand(1), random.random(), np.random.rand()
        return X[i]


@pytest.mark.parametrize("change, most", [(list, 3), (backwards, 8), (wholly_backwards, 8)])
@pytest.mark.filterwarnings("ignore:.*cannot be traced")
def test_few_samples_are_read(change, most):
    dataset = Counted()
    score(Wrapped(DataLoader(X, 4), change, dataset))
    assert 0 < len(dataset.read) <= most


def states():
    plain = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
    return *plain, random.getstate()


def test_random_states_are_as_they_were():
    before = states()
    score(Wrapped(DataLoader(X, 4), list, Counted()))
    assert states() == before


def test_random_states_are_those_of_a_loop_over_the_loader():
    """What is drawn for the batches that follow is what it would be without a look."""
    found = []
    for loop in (list, lambda loader: share(loader, 0, 2)):
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        loop(Wrapped(DataLoader(X, 4), list, Counted()))
        found.append(states())
    assert found[0] == found[1]


def test_slow_samples_are_not_waited_for(monkeypatch):
    monkeypatch.setattr("fastgradnorm._pool.places._SECONDS", -1.0)
    dataset = Counted()
    score(Wrapped(DataLoader(X, 4), backwards, dataset))
    assert not dataset.read
