"""Every kind of pool, in every host that takes it: the same samples, round after round.

What is expected is what `acquire` chooses from one tensor; the command line is in `tests/cli`.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from fastgradnorm import acquire
from fastgradnorm.active import ActiveLearner, Campaign
from tests.support.small_task import Secret

N, K = 22, 8
DRAW = torch.Generator().manual_seed(4)
X = torch.randn(N, 5, generator=DRAW)
ARRAY = X.numpy()
# By features, by chance and features, by all gradients.
STRATEGIES = ("auto", "badge", "expected/all/top")


def network():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).eval()


MODEL = network()


class Rows(Dataset):
    """Samples made by a function of their index."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return N

    def __getitem__(self, i):
        return self.make(i)


class Alike:
    """No subclass of anything."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return ARRAY[i]


class Stream(IterableDataset):
    """Shares itself among workers, whose batches come in turn."""

    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return iter(X[first::step])


def hugging_face(how=None):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"input": X.tolist(), "label": [0] * N, "text": ["a"] * N})
    return made if how is None else made.with_format(how)


def inputs(rows):
    return torch.stack([row["input"] for row in rows])


def generator():
    return torch.Generator().manual_seed(7)


ROWS = TensorDataset(X)
# What has a length and indices: for all hosts.
DATASETS = {
    "tensors": lambda: ROWS,
    "tensors and labels": lambda: TensorDataset(X, torch.full((N,), -1)),
    "secret labels": lambda: Rows(lambda i: (X[i], Secret())),
    "arrays": lambda: Rows(lambda i: ARRAY[i]),
    "lists of numbers": lambda: Rows(lambda i: ARRAY[i].tolist()),
    "lists and labels": lambda: Rows(lambda i: (ARRAY[i].tolist(), 1)),
    "mappings": lambda: Rows(lambda i: {"input": X[i], "label": Secret(), "name": f"{i}"}),
    "mappings of lists": lambda: Rows(lambda i: {"input": ARRAY[i].tolist()}),
    "no dataset by type": Alike,
    "subset": lambda: Subset(TensorDataset(torch.cat([X[5:], X])), range(N - 5, 2 * N - 5)),
    "subset of a subset": lambda: Subset(Subset(TensorDataset(X.flip(0)), range(N)),
                                         list(range(N))[::-1]),
    "concatenated": lambda: ConcatDataset([TensorDataset(X[:9]), TensorDataset(X[9:])]),
    "stacked": lambda: StackDataset(X, torch.zeros(N)),
    "stacked by name": lambda: StackDataset(input=X, y=torch.zeros(N)),
    "hugging face": hugging_face,
    "hugging face, tensors": lambda: hugging_face("torch"),
    "hugging face, arrays": lambda: hugging_face("numpy"),
}  # fmt: skip
LOADERS = {
    "one batch": lambda: [X],
    "batches": lambda: X.split(5),
    "batches of arrays": lambda: np.split(ARRAY, [3, 9]),
    "tuples": lambda: [(x, Secret()) for x in X.split(7)],
    "lists": lambda: [[x, Secret()] for x in X.split(7)],
    "mappings of tensors": lambda: [{"input": x, "labels": Secret()} for x in X.split(7)],
    "a generator": lambda: (x for x in X.split(4)),
    "a generator of tuples": lambda: ((x, None) for x in X.split(4)),
    "a map": lambda: map(torch.clone, X.split(4)),
    "a zip": lambda: zip(X.split(6), torch.zeros(N).split(6), strict=True),
    "single samples": lambda: (x[None] for x in X),
    "loader": lambda: DataLoader(TensorDataset(X, torch.zeros(N)), 6),
    "loader of mappings": lambda: DataLoader(Rows(lambda i: {"input": X[i], "label": 0}), 6),
    "loader with a collation": lambda: DataLoader(
        Rows(lambda i: {"input": X[i], "y": None}), 6, collate_fn=inputs),
    "loader of hugging face": lambda: DataLoader(
        hugging_face("torch").select_columns(["input", "label"]), 6),
    "loader of a subset": lambda: DataLoader(DATASETS["subset"](), 6),
    "shuffled": lambda: DataLoader(ROWS, 6, shuffle=True, generator=generator()),
    "random sampler": lambda: DataLoader(ROWS, 6, sampler=RandomSampler(ROWS)),
    "sampler of a subset": lambda: DataLoader(ROWS, 6, sampler=SubsetRandomSampler(range(N))),
    "weighted sampler": lambda: DataLoader(
        ROWS, 6, sampler=WeightedRandomSampler([1.0] * N, N, replacement=False)),
    "indices as a sampler": lambda: DataLoader(ROWS, 6, sampler=list(range(N))[::-1]),
    "batch sampler": lambda: DataLoader(
        ROWS, batch_sampler=BatchSampler(RandomSampler(ROWS), 4, drop_last=False)),
    "batches as a sampler": lambda: DataLoader(
        Rows(lambda i: X[i]), None, sampler=BatchSampler(SequentialSampler(X), 4, False)),
    "stream": lambda: DataLoader(Stream(), 6),
    "workers": lambda: DataLoader(ROWS, 6, num_workers=2),
    "shuffled by workers": lambda: DataLoader(ROWS, 6, shuffle=True, num_workers=2),
}  # fmt: skip
SLOW = {"workers", "shuffled by workers"}
ALL = DATASETS | LOADERS


def rounds(choose):
    """What is chosen until nothing is left, `choose(k, labelled)` each time."""
    known = [[4, 17]]
    while sum(map(len, known)) < N:
        labelled = [i for part in known for i in part]
        k = min(K, N - len(labelled))
        chosen = choose(k, labelled)
        assert len(chosen) == len({*chosen}) == k
        assert not {*chosen} & {*labelled}
        known.append(chosen)
    return known[1:]


def plain(strategy):
    def choose(k, labelled):
        asked = {"labelled": labelled, "strategy": strategy, "progress": False}
        return acquire(MODEL, [X], k, **asked).indices.tolist()

    return rounds(choose)


@pytest.fixture(scope="module")
def expected():
    return {name: plain(name) for name in STRATEGIES}


def chosen_of(kind, strategy):
    def choose(k, labelled):
        asked = {"labelled": labelled, "strategy": strategy, "progress": False, "batch_size": 5}
        return acquire(MODEL, ALL[kind](), k, **asked).indices.tolist()

    return rounds(choose)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in ALL]
)
def test_acquire(kind, expected):
    assert chosen_of(kind, "auto") == expected["auto"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mappings", "subset", "a generator of tuples", "stream"])
@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_acquire_by_other_strategies(kind, strategy, expected):
    assert chosen_of(kind, strategy) == expected[strategy]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shuffled", "batch sampler"])
def test_another_order_of_the_pool(kind, expected):
    assert chosen_of(kind, "expected/all/top") == expected["expected/all/top"]
    chosen_of(kind, "badge")  # draws in that order: none twice, none that is labelled


@pytest.mark.slow
def test_a_stream_that_workers_share():
    """Its indices are places in the order in which batches come, for `labelled` too."""

    def pool():
        return DataLoader(Stream(), 4, num_workers=2)

    order = torch.cat([*pool()])
    assert not torch.equal(order, X)
    asked = {"labelled": [4, 17], "progress": False}
    straight = acquire(MODEL, [order], K, **asked)
    assert torch.equal(acquire(MODEL, pool(), K, **asked).indices, straight.indices)


class FixedTask:
    """Nothing is learnt: each round is to choose by the same model."""

    name, batch_size = "fixed", 5

    def __init__(self, pool):
        self._pool = pool

    def pool(self):
        return self._pool

    def make_model(self, seed):
        return copy.deepcopy(MODEL)

    def train(self, model, labelled, seed):
        pass

    def evaluate(self, model):
        return {"accuracy": 0.0}


LEARNT = [(kind, "expected/last_layer/herding") for kind in DATASETS]
LEARNT += [
    (kind, strategy)
    for kind in ("mappings", "lists of numbers", "stacked by name")
    for strategy in ("expected/all/top", "margin", "coreset")
]


@pytest.mark.slow
@pytest.mark.parametrize("kind, strategy", LEARNT)
def test_active_learner(kind, strategy):
    run = ActiveLearner(
        FixedTask(DATASETS[kind]()), strategy, start=4, budget=9, cycles=2, subset=N, progress=False
    ).run()
    known = list(run.records[0]["start"])
    for record in run.records[:-1]:
        asked = {"labelled": known, "strategy": strategy, "progress": False}
        assert record["chosen"] == acquire(MODEL, [X], 9, **asked).indices.tolist()
        known += record["chosen"]
    assert sorted(known) == list(range(N))


@pytest.mark.slow
@pytest.mark.parametrize("kind", DATASETS)
def test_campaign(kind, tmp_path, expected):
    campaign = Campaign(tmp_path, DATASETS[kind](), [f"sample {i}" for i in range(N)])
    first = campaign.ask(2, MODEL, strategy="random", progress=False)
    campaign.tell(first, dict.fromkeys(first.keys, 0))

    def choose(k, labelled):
        batch = campaign.ask(k, MODEL, progress=False)
        campaign.tell(batch, dict.fromkeys(batch.keys, 0))
        return list(batch.indices)

    known = [*first.indices]
    for _ in range(2):
        chosen = choose(K, known)
        made = acquire(MODEL, [X], K, labelled=known, progress=False)
        assert chosen == made.indices.tolist()
        known += chosen
    assert len({*known}) == 2 + 2 * K
