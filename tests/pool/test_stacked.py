"""Rows of tensors are read a whole batch at a time: the batches that PyTorch's loader makes."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from fastgradnorm import GradNormScorer, VerificationError, score_pool
from fastgradnorm._engine import Engine, chunks
from fastgradnorm._model import Reader
from fastgradnorm._pool.samples import make_pool
from fastgradnorm._pool.stacked import several, taken_at_once
from tests.support.cases import Custom

X = torch.randn(23, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(23)
IMAGES = torch.arange(288.0).reshape(6, 3, 4, 4)


class Counting(TensorDataset):
    """Samples of its own, which are no rows."""

    def __getitem__(self, key):
        return (self.tensors[0][key] + 1,)


def batches(loader):
    return list(make_pool(loader, None, 0).open().batches)


class Listed:
    """Draws batches that are named beforehand."""

    def __init__(self, *given):
        self.given = given

    def __iter__(self):
        return iter(self.given)

    def __len__(self):
        return len(self.given)


LOADERS = {
    "rows": lambda: DataLoader(TensorDataset(X), 4),
    "rows and labels": lambda: DataLoader(TensorDataset(X, Y), 4),
    "shuffled": lambda: DataLoader(
        TensorDataset(X, Y), 4, shuffle=True, generator=torch.Generator().manual_seed(3)
    ),
    "the last left out": lambda: DataLoader(TensorDataset(X), 4, drop_last=True),
    "a part": lambda: DataLoader(Subset(TensorDataset(X, Y), [7, 3, 3, 22, -1]), 2),
    "again and from behind": lambda: DataLoader(
        TensorDataset(X, Y), batch_sampler=Listed([1, 1], [-1, 0], [2])
    ),
    "numbers in numbers": lambda: DataLoader(
        TensorDataset(X, Y), batch_sampler=Listed([1, 2], [torch.tensor(3), 4])
    ),
    "images in another layout": lambda: DataLoader(
        TensorDataset(IMAGES.to(memory_format=torch.channels_last)), 2
    ),
    "a turned table": lambda: DataLoader(TensorDataset(X.t()), 3),
}


@pytest.mark.parametrize("name", LOADERS)
def test_batches_are_those_of_the_loader(name):
    torch.manual_seed(1)
    found, usual = batches(LOADERS[name]()), list(LOADERS[name]())
    assert len(found) == len(usual)
    for ours, theirs in zip(found, usual, strict=True):
        assert type(ours) is type(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype
            assert a.stride() == b.stride()
            assert torch.equal(a, b)


def test_rows_are_not_read_one_by_one(monkeypatch):
    asked = []
    usual = TensorDataset.__getitem__
    monkeypatch.setattr(
        TensorDataset, "__getitem__", lambda self, key: (asked.append(key), usual(self, key))[1]
    )
    found = [*GradNormScorer(nn.Linear(5, 3).eval(), verify=False).stream(LOADERS["rows"]())]
    assert list(map(len, found)) == [4, 4, 4, 4, 4, 3]
    assert asked == [0, 1, 2, 3]  # the first batch, which is made both ways


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Counting(X), 4),
        DataLoader(TensorDataset(X), 4, collate_fn=lambda rows: default_collate(rows)),
        DataLoader(TensorDataset(X), None),
        DataLoader(TensorDataset(X.clone().requires_grad_()), 4),
        DataLoader(Subset(Counting(X), [1, 2]), 2),
        DataLoader(TensorDataset(X), 4, num_workers=1),
    ],
    ids=["own samples", "own collation", "no batches", "with gradients", "part", "workers"],
)
def test_what_is_no_table_is_read_as_it_is(loader):
    assert taken_at_once(loader) is None


def test_a_collation_that_was_changed_is_kept(monkeypatch):
    usual = torch.stack
    monkeypatch.setattr(torch, "stack", lambda rows, *a, **k: usual(rows, *a, **k) * 2)
    found = batches(DataLoader(TensorDataset(X), 4))
    assert torch.equal(torch.cat([batch for (batch,) in found]), X * 2)


def test_a_batch_is_no_view_of_the_table():
    table = X.clone()
    for (batch,) in batches(DataLoader(TensorDataset(table), 4)):
        batch.zero_()
    assert torch.equal(table, X)


def test_a_row_that_is_not_there_is_named():
    loader = DataLoader(TensorDataset(X), batch_sampler=Listed([0, 1], [2, 40]))
    with pytest.raises(IndexError, match="index 40 is out of bounds"):
        batches(loader)


def test_other_tensors_in_their_place_are_read():
    dataset = TensorDataset(X.clone())
    reading = make_pool(DataLoader(dataset, 8), None, 0).open().batches
    next(reading)
    dataset.tensors = (X + 3,)
    assert torch.equal(next(reading)[0], X[8:16] + 3)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3, 64])
@pytest.mark.parametrize("verify", ["sampled", "all"])
@pytest.mark.parametrize("params", ["all", "last_layer"])
def test_batches_that_come_as_one_are_verified_each(size, verify, params, monkeypatch):
    monkeypatch.setattr(chunks, "_GATHERED", 4096)  # no score is there before all was looked at
    rows = torch.randn(150, 5, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    scorer = GradNormScorer(model, verify=verify, params=params, seed=2)
    loader = DataLoader(TensorDataset(rows), size)
    together, by_batch = scorer.score(loader), scorer.score(list(loader))
    assert torch.equal(together.values, by_batch.values)
    told, usual = (dict(each.provenance["verified"]) for each in (together, by_batch))
    del told["seconds"], usual["seconds"]
    assert told == usual
    assert together.indices is None


@pytest.mark.slow
def test_a_sample_in_the_last_of_several_batches_is_verified(monkeypatch):
    """A sample whose score is made wrong is found in whichever batch it came."""
    usual = Engine.score

    def wrong(self, batch):
        made = usual(self, batch)
        if "expected" in made.scores:
            made.scores["expected"][batch.leaves[0][:, 0] == 7] *= 2
        return made

    monkeypatch.setattr(Engine, "score", wrong)
    rows = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    rows[37, 0] = 7
    loader = DataLoader(TensorDataset(rows), 4)
    with pytest.raises(VerificationError):
        GradNormScorer(nn.Linear(5, 3).eval(), verify="all").score(loader)


@pytest.mark.slow
def test_shuffled_batches_that_come_as_one_are_told_by_indices():
    model = nn.Linear(5, 3).eval()
    loader = DataLoader(TensorDataset(X), 2, shuffle=True)
    found = GradNormScorer(model).score(loader)
    exact = GradNormScorer(model).score([X])
    assert torch.equal(found.values, exact.values[found.indices])
    assert found.indices.tolist() != [*range(23)]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_no_batch_of_a_stream_is_joined_to_another(size):
    loader = DataLoader(TensorDataset(X), size)
    found = [*GradNormScorer(nn.Linear(5, 3).eval()).stream(loader)]
    assert list(map(len, found)) == [len(batch) for (batch,) in loader]


def test_few_come_together_where_rows_are_large():
    rows = torch.zeros(8, 1 << 17)
    reading = make_pool(DataLoader(TensorDataset(rows), 1), None, 0).open(together=True)
    assert [len(batch) for (batch,) in reading.batches] == [2, 2, 2, 2]


@pytest.mark.parametrize("size", [1, 2])
def test_it_is_known_whether_the_callers_batches_are_single_samples(size, monkeypatch):
    seen, usual = [], Engine.score

    def score(self, batch):
        seen.append(self.singles)
        return usual(self, batch)

    scorer = GradNormScorer(nn.Linear(5, 3).eval(), verify=False)
    monkeypatch.setattr(Engine, "score", score)
    scorer.score(DataLoader(TensorDataset(X), size))
    assert set(seen) == {size == 1}


class Asking(SequentialSampler):
    """Might go by what was read before."""


@pytest.mark.parametrize(
    "keys",
    [
        BatchSampler(Asking(X), 2, False),
        BatchSampler([3, 1, 2], 2, False),
        Listed([1, 2], [3, 4]),
        BatchSampler(SequentialSampler(X), 9, False),
    ],
    ids=["its own", "a list", "its own batches", "large ones"],
)
def test_what_is_drawn_by_other_means_comes_as_it_is_drawn(keys):
    assert several(keys, 16) == (keys, None)


@pytest.mark.parametrize("name", ["forward", "mask", "latency", "checkpoint", None])
def test_who_is_given_batches_is_given_the_callers(name, tmp_path):
    options = {
        "forward": lambda model, batch: model(batch[0]),
        "mask": lambda batch: torch.ones(len(batch[0]), 3, dtype=torch.bool),
        "latency": 4,
        "checkpoint": tmp_path / "scores",
    }
    model = nn.Linear(5, 2).eval()
    rows = torch.randn(23, 3, 5) if name == "mask" else X
    scorer = GradNormScorer(
        model,
        verify=False,
        **({} if name is None else {name: options[name]}),
        **({"class_dim": -1} if name == "mask" else {}),
    )
    sizes, usual = [], Reader.read

    def read(self, raw, drawn=None):
        sizes.append(drawn)
        return usual(self, raw, drawn)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Reader, "read", read)
        scorer.score(DataLoader(TensorDataset(rows), 4))
    assert sizes == ([23] if name is None else [4, 4, 4, 4, 4, 3])


@pytest.mark.slow
def test_a_part_that_begins_as_the_whole_does():
    """Its first batch does not tell whose rows are read."""
    x, part = torch.randn(1300, 5), [*range(600), *range(650, 1300)]
    found = GradNormScorer(nn.Linear(5, 3), verify=False, progress=False)
    scores = found.score(DataLoader(Subset(TensorDataset(x), part), 64)).values
    assert torch.equal(scores, found.score(DataLoader(TensorDataset(x[part]), 64)).values)


@pytest.mark.slow
def test_single_samples_of_a_model_that_reads_its_values_stay_single():
    """Batches of one each are split without a word; together they would be told as a slow loop."""
    model = Custom(lambda m, x: m.body(x) * (1 + abs(float(x.sum()))), body=nn.Linear(5, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score_pool(model, DataLoader(TensorDataset(X), 1), progress=False, verify=False)
    assert torch.equal(found, score_pool(model, X.split(1), progress=False, verify=False))
