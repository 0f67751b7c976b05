"""Collations that put the samples of a batch in an order of their own are told."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from fastgradnorm import GradNormScorer, naive_score_pool, score_pool

X = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))


class Rows(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return {"x": X[i], "length": int(X[i, 0] * 100), "name": f"row {i}"}


def by_length(samples):
    return torch.stack([s["x"] for s in sorted(samples, key=lambda s: -s["length"])])


def in_place(samples):
    samples.sort(key=lambda s: s["name"][::-1])
    return torch.stack([s["x"] for s in samples])


def by_argsort(samples):
    x = torch.stack([s["x"] for s in samples])
    return {"input": x[x[:, 1].argsort()]}


def by_numpy(samples):
    order = np.argsort([s["length"] for s in samples])
    return torch.stack([samples[i]["x"] for i in order]), ["told"]


def grouped(samples):
    high = [s["x"] for s in samples if s["length"] > 0]
    return torch.stack(sorted(high, key=float_of) + sorted(rest(samples), key=float_of))


def float_of(row):
    return float(row[0])


def rest(samples):
    return [s["x"] for s in samples if s["length"] <= 0]


def stacked(samples):
    return torch.stack([s["x"] for s in samples])


def noisy(samples):
    return stacked(samples) + torch.randn(len(samples), 5)


def reading(model, batch):
    batch = batch[0] if isinstance(batch, tuple) else batch
    return model(batch["input"] if isinstance(batch, dict) else batch)


@pytest.mark.parametrize("function", [score_pool, naive_score_pool, None])
@pytest.mark.parametrize("collate", [by_length, in_place, by_argsort, by_numpy, grouped])
def test_is_told(collate, function):
    model, loader = nn.Linear(5, 3), DataLoader(Rows(), 4, collate_fn=collate)
    options = {"forward": reading, "progress": False}
    with pytest.warns(UserWarning, match="cannot be traced.*collation puts the samples"):
        if function is not None:
            function(model, loader, **options)
        else:
            assert GradNormScorer(model, **options).score(loader).indices is None


@pytest.mark.parametrize("collate", [stacked, noisy, None])
def test_is_not_told_of_others(collate):
    """Any warning is an error here."""
    loader = DataLoader(Rows() if collate else X, 4, collate_fn=collate)
    assert len(score_pool(nn.Linear(5, 3), loader, progress=False)) == 9


class Counted(Rows):
    def __init__(self):
        self.read = []

    def __getitem__(self, i):
        self.read.append(i)
        return super().__getitem__(i)


@pytest.mark.parametrize("collate", [by_length, stacked])
@pytest.mark.filterwarnings("ignore:.*cannot be traced")
def test_nothing_is_read_twice_for_it(collate):
    loader = DataLoader(Counted(), 4, collate_fn=collate)
    score_pool(nn.Linear(5, 3), loader, progress=False)
    assert loader.dataset.read == [*range(9)]
