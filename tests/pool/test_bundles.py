"""Small batches of any loader that are alike come as one, and score as each does by itself."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fastgradnorm import (
    ArgumentError,
    GradNormScorer,
    UnsupportedModelError,
)
from fastgradnorm._pool import bundles
from fastgradnorm._pool.bundles import bundled
from tests.support.reading import sizes_read

X = torch.randn(41, 5, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(24, 2, 4, 4, generator=torch.Generator().manual_seed(1))


class Own(Dataset):
    """Samples that are made one by one."""

    def __init__(self, rows=X, label=0):
        self.rows, self.label = rows, label

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if not -len(self.rows) <= index < len(self.rows):
            raise IndexError(index)
        return self.rows[index], self.label


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(X)


class Whole(Own):
    """Each of its items is a batch."""

    def __getitem__(self, index):
        return self.rows[2 * index : 2 * index + 2]

    def __len__(self):
        return len(self.rows) // 2


class OneList:
    """Draws batches as one list, again and again, with other numbers in it."""

    def __iter__(self):
        keys = [0, 0]
        for index in range(0, 40, 2):
            keys[:] = index + 1, index
            yield keys


def overwritten(rows=X):
    """A stream that writes each batch where the one before was."""
    memory = torch.empty(1, 5)
    for row in rows:
        memory.copy_(row)
        yield memory
    memory.fill_(float("nan"))


def alternating():
    for number, row in enumerate(X):
        yield (row[None] if number % 3 else row[None].repeat(2, 1)), torch.zeros(2 - number % 2)


def seeded():
    return torch.Generator().manual_seed(2)


LOADERS = {
    "single samples": lambda: DataLoader(Own(), 1),
    "pairs, and one more": lambda: DataLoader(Own(), 2),
    "shuffled": lambda: DataLoader(Own(), 1, shuffle=True, generator=seeded()),
    "one list for all": lambda: DataLoader(Own(), batch_sampler=OneList()),
    "keys in tuples": lambda: DataLoader(Own(), batch_sampler=[(i, i + 1) for i in range(40)]),
    "of NumPy's numbers": lambda: DataLoader(Own(), batch_sampler=np.arange(40).reshape(20, 2)),
    "of several sizes": lambda: DataLoader(Own(), batch_sampler=[[0], [1], [2, 3], [4], [5], [6]]),
    "its own collation": lambda: DataLoader(
        Own(), 2, collate_fn=lambda rows: (torch.stack([x for x, _ in rows]), ["name"] * len(rows))
    ),
    "text beside": lambda: DataLoader(Own(label="text"), 1),
    "in a worker": lambda: DataLoader(Own(), 1, num_workers=1),
    "no batches": lambda: DataLoader(Whole(), None),
    "a stream": lambda: DataLoader(Streamed(), 1),
    "a list": lambda: [*X.split(1)],
    "pairs in tuples": lambda: [(x, torch.zeros(len(x))) for x in X.split(2)],
    "arrays": lambda: [x.numpy() for x in X.split(1)],
    "mappings": lambda: [{"input": x} for x in X.split(1)],
    "with gradients": lambda: [x.clone().requires_grad_() for x in X.split(1)],
    "doubles among them": lambda: [
        x.double() if i % 5 == 0 else x for i, x in enumerate(X[:, None])
    ],
    "written over": overwritten,
    "of two sizes in turn": alternating,
    "empty ones among them": lambda: [X[i : i + i % 3] for i in range(30)],
}


def model_of(dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    return model.to(dtype).eval()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*scores come in another order:UserWarning")
@pytest.mark.filterwarnings("ignore:.*PoolScores.indices:UserWarning")
@pytest.mark.parametrize("verify", [False, True, pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LOADERS)
def test_scores_and_indices_are_those_of_each_batch_by_itself(name, verify):
    model = model_of()
    if name == "doubles among them":
        model = nn.Sequential(Narrow(), model)
    scorer = GradNormScorer(model, verify=verify, progress=False)
    found = scorer.score(LOADERS[name]())
    apart = GradNormScorer(model, verify=False, latency=0, progress=False).score(LOADERS[name]())
    assert torch.allclose(found.values, apart.values, 1e-5)
    assert (found.indices is None) == (apart.indices is None)
    assert found.indices is None or torch.equal(found.indices, apart.indices)


class Narrow(nn.Module):
    def forward(self, x):
        return x.float()


def reads(monkeypatch, loader, **options):
    return sizes_read(monkeypatch, model_of(), loader, **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*PoolScores.indices:UserWarning")
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("single samples", [1, 40]),
        ("shuffled", [1, 40]),
        ("pairs, and one more", [2, 38, 1]),
        ("one list for all", [2, 38]),
        ("keys in tuples", [2, 78]),
        ("of several sizes", [1, 1, 2, 1, 2]),
        ("a list", [1, 40]),
        ("a stream", [1, 40]),
        ("written over", [1, 40]),
        ("text beside", [1] * 41),
        ("arrays", [1] * 41),
    ],
)
def test_what_comes_as_one(name, sizes, monkeypatch):
    assert reads(monkeypatch, LOADERS[name]()) == sizes


def test_no_more_than_some_hundred_samples_come_as_one(monkeypatch):
    monkeypatch.setattr(bundles, "ROWS", 16)
    assert reads(monkeypatch, [*X.split(1)]) == [1, 16, 16, 8]


def test_large_samples_come_by_themselves(monkeypatch):
    monkeypatch.setattr(bundles, "BYTES", 3 * X[:1].nbytes)
    assert reads(monkeypatch, [*X[:9].split(1)]) == [1, 3, 3, 2]
    monkeypatch.setattr(bundles, "BYTES", X[:1].nbytes)
    assert [count for _, count in bundled(iter(X[:4].split(1)))] == [1, 1, 1, 1]


def test_what_was_read_slowly_is_given_on(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(bundles.time, "perf_counter", lambda: 0.006 * next(clock))
    assert [count for _, count in bundled(iter(X[:11].split(1)))] == [1, 4, 4, 2]


@pytest.mark.parametrize("option", ["forward", "latency", "checkpoint"])
def test_who_is_given_batches_is_given_the_callers(option, tmp_path, monkeypatch):
    given = {
        "forward": lambda model, batch: model(batch),
        "latency": 4,
        "checkpoint": tmp_path / "scores",
    }
    sizes = reads(monkeypatch, [*X.split(1)], **{option: given[option]})
    assert sizes == [1] * 41


def test_a_sample_that_fails_to_load_is_named():
    class Broken(Own):
        def __getitem__(self, index):
            if index == 17:
                raise RuntimeError("broken")
            return super().__getitem__(index)

    with pytest.raises(RuntimeError, match="broken") as raised:
        GradNormScorer(model_of(), progress=False).score(DataLoader(Broken(), 1))
    assert "sample 17 of the dataset" in raised.value.__notes__[0]


def test_a_parameter_that_is_another_one_meanwhile_is_refused():
    model = model_of()

    def loader():
        for number, row in enumerate(X):
            if number == 9:
                model[0].weight = nn.Parameter(torch.zeros(4, 5))
            yield row[None]

    with pytest.raises(ArgumentError, match=r"`model\.0\.weight`"):
        GradNormScorer(model, verify=False, progress=False).score(loader())


def test_a_model_that_mixes_the_samples_of_a_batch_is_found_in_the_callers_batches():
    """Pairs are scored in company of others, whose mean they are not given."""

    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(5, 3)

        def forward(self, x):
            return self.body(x - x.mean(0, keepdim=True).detach())

    loader = DataLoader(Own(), 2)
    with pytest.raises(UnsupportedModelError, match="call on 2 samples"):
        GradNormScorer(Mixing().eval(), verify=True, progress=False).score(loader)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["single samples", "pairs, and one more", "a list"])
def test_each_is_verified_in_its_turn(name):
    """As often, and in the company of as many, as where batches do not come as one."""
    told = []
    for latency in (None, 1000):
        scorer = GradNormScorer(model_of(), latency=latency, progress=False)
        verified = dict(scorer.score(LOADERS[name]()).provenance["verified"])
        told.append({key: verified[key] for key in ("batches", "rows", "samples")})
    assert told[0] == told[1]


@pytest.mark.slow
def test_images_of_another_layout_score_alike():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 3)).eval()
    turned = [x.to(memory_format=torch.channels_last) for x in IMAGES.split(2)]
    scorer = GradNormScorer(model, progress=False)
    assert torch.allclose(scorer.score(turned).values, scorer.score([IMAGES]).values, 1e-5)


def test_a_stream_of_samples_by_chance_draws_the_same():
    one = GradNormScorer(model_of(), subset=0.5, seed=3, progress=False, verify=False)
    found, apart = one.score(iter(X.split(1))), one.score([X])
    assert torch.allclose(found.values, apart.values, 1e-5)
    assert torch.equal(found.indices, apart.indices)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_some_samples_of_a_dataset_have_its_indices(size):
    scorer = GradNormScorer(model_of(), subset=0.6, seed=3, progress=False)
    found = scorer.score(DataLoader(Own(), size))
    exact = GradNormScorer(model_of(), progress=False).score([X])
    assert len(found.indices) == 25
    assert torch.allclose(found.values, exact.values[found.indices], 1e-5)


@pytest.mark.slow
def test_within_inference_mode():
    with torch.inference_mode():
        found = GradNormScorer(model_of(), progress=False).score([x.clone() for x in X.split(1)])
    exact = GradNormScorer(model_of(), progress=False).score([X])
    assert torch.allclose(found.values, exact.values, 1e-5)
