"""Near-duplicates of what is chosen are told: in the records, the table and the page."""

import csv

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import acquire
from tests.support.small_task import Blobs

X = Blobs(40).x
TWICE = torch.cat([X, X[:5], X[:5] + 1e-5])  # samples 40 to 49 repeat the first five


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


def by_loop(model, chosen, labelled, least):
    points = F.normalize(model[:3](TWICE).detach().double(), dim=1)
    free = [i for i in range(len(TWICE)) if i not in labelled]
    indices = chosen.indices.tolist()
    for rank, i in enumerate(indices):
        near = [j for j in free if j != i and float(points[i] @ points[j]) > least]
        before = [r + 1 for r, j in enumerate(indices[:rank]) if j in near]
        yield len(near), before[0] if before else None


@pytest.mark.parametrize("strategy", ["herding", "coreset", "typiclust", "badge"])
@pytest.mark.parametrize("given", [{}, {"max_similarity": 0.999}])
def test_they_are_counted_as_a_loop_counts_them(model, strategy, given):
    chosen = acquire(model, [TWICE], 12, labelled=[7], strategy=strategy, progress=False, **given)
    told = [(row["alike"], row["alike_chosen"]) for row in chosen.records]
    assert told == [*by_loop(model, chosen, [7], given.get("max_similarity", 0.99))]
    if given:  # none was chosen beside another
        assert {before for _, before in told} == {None}


def test_what_looks_at_no_points_says_nothing(model):
    row = acquire(model, [TWICE], 3, strategy="margin", progress=False).records[0]
    assert (row["alike"], row["alike_chosen"], row["coverage"]) == (None, None, None)


def test_many_pairs_are_left_alone(model, monkeypatch):
    monkeypatch.setattr("fastgradnorm._selection.near_duplicates._PAIRS", 149)
    assert acquire(model, [TWICE], 3, progress=False).records[0]["alike"] is None


def test_they_are_in_the_table_and_on_the_page(model, tmp_path):
    pool = TWICE[[0, 40, 45, 1, 41, 46]]  # two samples, each three times
    chosen = acquire(model, [pool], 6, progress=False)
    with chosen.to_csv(tmp_path / "c.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert rows[0]["alike"] == "2"
    assert rows[0]["alike_chosen"] == ""
    assert [row["alike_chosen"] for row in rows].count("1") == 2
    html = chosen.report(tmp_path / "page").read_text()
    assert "2 near-duplicates, of them rank 1" in html
    assert "near-duplicates of others chosen" in html
    apart = acquire(model, [pool], 2, max_similarity=0.99, progress=False)
    assert "of others chosen" not in apart.report(tmp_path / "page").read_text()


def test_links_to_the_samples(model, tmp_path):
    from PIL import Image

    chosen = acquire(model, [X], 3, progress=False)
    first = int(chosen.indices[0])
    for given in ({}, {"picture": lambda i: Image.new("RGB", (4, 4))}):
        path = chosen.report(tmp_path, link=lambda i: f"../a&b/{i}.png", **given)
        assert f'<a href="../a&amp;b/{first}.png">' in path.read_text()
        assert "<a href" not in chosen.report(tmp_path, **given).read_text()
