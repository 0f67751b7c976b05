"""Labelled samples that are handed over as a dataset or loader, and are in the pool too."""

import collections
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from fastgradnorm import acquire

N, K = 24, 5
LABELLED = [7, 16, 2]  # which most strategies would choose
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
OTHERS = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
WHOLE, MORE = TensorDataset(X), TensorDataset(torch.cat([OTHERS, X]))


class Rows(Dataset):
    """Samples made by a function of their index."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return X[i]


ROWS = Rows()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()


@pytest.fixture(scope="module")
def expected(model):
    names = ("auto", "top", "badge", "margin")
    found = {name: chosen(model, [X], LABELLED, name) for name in names}
    assert all({*chosen(model, [X], [], name)} & {*LABELLED} for name in names if name != "auto")
    return found


def chosen(model, pool, labelled, strategy="top"):
    found = acquire(model, pool, K, labelled=labelled, strategy=strategy, progress=False)
    return found.indices.tolist()


def weighted():
    sampler = WeightedRandomSampler(torch.ones(3), 9)
    return DataLoader(Subset(WHOLE, LABELLED), 2, sampler=sampler)


SHARED = {
    "a subset": lambda: (WHOLE, Subset(WHOLE, LABELLED)),
    "of a loader's dataset": lambda: (DataLoader(WHOLE, 5), Subset(WHOLE, LABELLED)),
    "of any dataset": lambda: (ROWS, Subset(ROWS, LABELLED)),
    "a subset of a subset": lambda: (WHOLE, Subset(Subset(WHOLE, [2, 7, 16]), [1, 2, 0])),
    "two subsets of one dataset": lambda: (
        Subset(MORE, range(4, N + 4)),
        Subset(MORE, [i + 4 for i in LABELLED]),
    ),
    "indices in an array": lambda: (WHOLE, Subset(WHOLE, np.array(LABELLED))),
    "indices in a tensor": lambda: (WHOLE, Subset(WHOLE, torch.tensor(LABELLED))),
    "counted from the end": lambda: (WHOLE, Subset(WHOLE, [7 - N, 16, 2])),
    "a loader": lambda: (DataLoader(WHOLE, 5), DataLoader(Subset(WHOLE, LABELLED), 2)),
    "a loader that shuffles": lambda: (
        WHOLE,
        DataLoader(Subset(WHOLE, LABELLED), 2, shuffle=True),
    ),
    "a sampler": lambda: (WHOLE, DataLoader(WHOLE, 2, sampler=LABELLED)),
    "batches as a sampler": lambda: (WHOLE, DataLoader(WHOLE, batch_sampler=[[7, 16], [2]])),
    "drawn again and again": lambda: (WHOLE, weighted()),
    "a part of a concatenation": lambda: (
        ConcatDataset([Subset(ROWS, range(10)), Subset(ROWS, range(10, N))]),
        ConcatDataset([Subset(ROWS, [7, 2]), Subset(ROWS, [16])]),
    ),
    "left out of the pool by its sampler": lambda: (
        DataLoader(WHOLE, 5, sampler=[i for i in range(N) if i not in LABELLED]),
        Subset(WHOLE, LABELLED),
    ),
}


CASES = [(kind, "top") for kind in SHARED] + [
    (kind, strategy)
    for kind in ("a subset", "a loader that shuffles", "drawn again and again")
    for strategy in ("auto", "badge", "margin")
]


@pytest.mark.parametrize("kind, strategy", CASES)
def test_the_same_as_by_their_indices(model, expected, kind, strategy):
    """None is chosen again, also by strategies that do not start from them."""
    pool, labelled = SHARED[kind]()
    assert chosen(model, pool, labelled, strategy) == expected[strategy]


def tables():
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict({"input": X.tolist(), "label": [0] * N})
    more = datasets.Dataset.from_dict({"input": torch.cat([OTHERS, X]).tolist()})
    first = whole.select(range(9))
    return {
        "selected": (whole, whole.select(LABELLED)),
        "selected twice": (whole, whole.select([2, 7, 16, 3]).select([1, 2, 0])),
        "slices of one": (more.select(range(4, N + 4)), more.select([i + 4 for i in LABELLED])),
        "of another format": (whole.with_format("numpy"), whole.select(LABELLED)),
        "a subset": (whole, Subset(whole, LABELLED)),
        "put together": (
            datasets.concatenate_datasets([first, whole.select(range(9, N))]),
            datasets.concatenate_datasets([whole.select([16]), first.select([7, 2])]),
        ),
        "loaders": (
            DataLoader(whole.with_format("torch"), 5),
            DataLoader(whole.with_format("torch").select(LABELLED), 2, shuffle=True),
        ),
    }


@pytest.mark.slow
def test_parts_of_a_table_of_hugging_face(model, expected):
    for kind, (pool, labelled) in tables().items():
        assert chosen(model, pool, labelled, "top") == expected["top"], kind
    pool, _ = tables()["selected"]
    others = tables()["selected"][1]  # equal rows of another table
    assert chosen(model, pool, others, "top") == chosen(model, [X], [], "top")


def test_a_loader_that_shuffles_the_pool(model, expected):
    pool = DataLoader(WHOLE, 5, shuffle=True, generator=torch.Generator().manual_seed(3))
    assert chosen(model, pool, Subset(WHOLE, LABELLED)) == expected["top"]


@pytest.mark.slow
def test_some_of_them_are_others(model, expected):
    """All are where the choice starts from, and those of the pool are not chosen."""
    pool = Subset(MORE, range(4, N + 4))
    labelled = Subset(MORE, [0, 1, *(i + 4 for i in LABELLED)])
    assert chosen(model, pool, labelled) == expected["top"]
    rest = [i for i in range(N) if i not in LABELLED]
    apart = chosen(model, [X[rest]], [torch.cat([OTHERS[:2], X[LABELLED]])], "coreset")
    assert chosen(model, pool, labelled, "coreset") == [rest[i] for i in apart]


@pytest.mark.slow
def test_other_samples_of_one_dataset_are_others(model):
    pool, labelled = Subset(MORE, range(4, N + 4)), Subset(MORE, [0, 1])
    assert chosen(model, pool, labelled, "top") == chosen(model, [X], [], "top")
    assert chosen(model, pool, labelled, "auto") == chosen(model, [X], [OTHERS[:2]], "auto")


def test_equal_samples_of_another_dataset_are_others(model):
    labelled = TensorDataset(X[LABELLED])
    assert chosen(model, WHOLE, labelled, "top") == chosen(model, [X], [], "top")


def test_all_of_the_pool(model):
    with pytest.raises(ValueError, match=r"`k` must be at most 0.*24 have a label"):
        chosen(model, WHOLE, WHOLE)


def test_samples_that_are_counted_from_the_end(model, expected):
    pool = DataLoader(WHOLE, 5, sampler=range(-N, 0))
    assert chosen(model, pool, LABELLED, "top") == expected["top"]
    twice = DataLoader(WHOLE, 5, sampler=[*range(N), -1, -2])
    with pytest.warns(UserWarning, match="2 came again"):
        made = acquire(model, twice, N, strategy="top", progress=False)
    assert sorted(made) == list(range(N))


@pytest.mark.parametrize("kind", [collections.deque, collections.UserList])
@pytest.mark.parametrize("size", [5, 6])
def test_batches_in_other_lists(model, expected, kind, size):
    """They are no dataset of as many samples."""
    assert chosen(model, kind(X.split(size)), LABELLED) == expected["top"]


@pytest.mark.parametrize(
    "labelled, error, match",
    [
        ([2**70], ValueError, "`labelled` must be indices of the pool"),
        ([-(2**70)], ValueError, "`labelled` must be indices of the pool"),
        (torch.tensor(LABELLED).to_sparse(), TypeError, "`labelled` must be.*to_dense"),
        ([Path("a.png")], TypeError, "`labelled` must be indices.*a.png"),
    ],
    ids=["far", "far below", "sparse", "paths"],
)
def test_what_is_none_is_told(model, labelled, error, match):
    with pytest.raises(error, match=match):
        chosen(model, [X], labelled)
