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


def asserting(samples):
    """As of packed sequences whose sampler is to sort: it fails on any others, and reverses."""
    lengths = [s["length"] for s in samples]
    assert lengths == sorted(lengths), "the sampler must sort by length"
    return torch.stack([s["x"] for s in samples[::-1]])


def of_four(samples):
    """Wants whole batches, each of samples that it has not had."""
    assert len(samples) == 4
    assert samples[0]["length"] <= samples[-1]["length"]
    return torch.stack([s["x"] for s in sorted(samples, key=lambda s: s["name"][::-1])][::-1])


def sorted_rows():
    rows = Rows()
    return [rows[i] for i in X[:, 0].argsort().tolist()][:8]


@pytest.mark.parametrize("collate", [asserting, of_four])
def test_is_told_of_those_that_fail_on_samples_backwards(collate):
    loader = DataLoader(sorted_rows(), 4, collate_fn=collate)
    with pytest.warns(UserWarning, match="cannot be traced.*collation puts the samples"):
        score_pool(nn.Linear(5, 3), loader, progress=False)


def keeping(samples):
    lengths = [s["length"] for s in samples]
    assert lengths == sorted(lengths)
    return torch.stack([s["x"] for s in samples])


def keeping_padded(samples):
    """Each as long as its length says: rows of copies are shorter than those of a batch."""
    lengths = [s["length"] for s in samples]
    assert lengths == sorted(lengths)
    rows = [s["x"][: 2 + (s["length"] > 0)] for s in samples]
    made = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return nn.functional.pad(made, (0, 5 - made.shape[1]))


@pytest.mark.parametrize("collate", [keeping, keeping_padded])
def test_is_not_told_of_those_that_fail_and_keep_the_order(collate):
    loader = DataLoader(sorted_rows(), 4, collate_fn=collate)
    assert len(score_pool(nn.Linear(5, 3), loader, progress=False)) == 8


class Once:
    """Fails on samples that it has had."""

    def __init__(self):
        self.had = set()

    def __call__(self, samples):
        names = {s["name"] for s in samples}
        assert not names & self.had
        self.had |= names
        return torch.stack([s["x"] for s in samples])


def test_one_that_cannot_be_looked_at_is_told():
    loader = DataLoader(Rows(), 4, collate_fn=Once())
    with pytest.warns(UserWarning, match="cannot be told whether it keeps the samples"):
        assert len(score_pool(nn.Linear(5, 3), loader, progress=False)) == 9


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


def test_a_sampler_tells_no_indices_then():
    loader = DataLoader(Rows(), 4, sampler=[3, 1, 4, 0, 5, 8, 2, 6, 7], collate_fn=by_length)
    with pytest.warns(UserWarning, match="cannot be traced.*collation puts the samples"):
        assert GradNormScorer(nn.Linear(5, 3), progress=False).score(loader).indices is None


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
