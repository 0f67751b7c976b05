"""What `fastgradnorm score` tells of each sample beside its score: what the model predicts."""

import csv
import json

import numpy as np
import pytest
import torch

MODELS = """
import torch
from torch import nn

class Places(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
    def forward(self, x):
        return self.linear(x).movedim(-1, 1)

def of_places():
    torch.manual_seed(1)
    return Places()

def flat():
    torch.manual_seed(1)
    return nn.Linear(4, 3)
"""


@pytest.fixture
def numbers(folder):
    (folder / "other_models.py").write_text(MODELS)
    x = np.random.default_rng(3).normal(size=(7, 4)).astype("float32")
    np.save(folder / "pool.npy", x)
    return torch.from_numpy(x)


def read(path):
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open() as file:
        return list(csv.DictReader(file))


def check(rows, p):
    best = p.topk(2, -1)
    assert [int(row["predicted"]) for row in rows] == best.indices[:, 0].tolist()
    assert [int(row["runner_up"]) for row in rows] == best.indices[:, 1].tolist()
    for name, expected in (("confidence", 0), ("runner_up_probability", 1)):
        found = torch.tensor([float(row[name]) for row in rows])
        torch.testing.assert_close(found, best.values[:, expected].float())


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("params", ["all", "last_layer"])
def test_of_classes(run, folder, numbers, suffix, params):
    out = folder / f"scores.{suffix}"
    ran = run("score", "other_models:flat", "pool.npy", "--out", out, "--params", params)
    assert ran.code == 0, ran.err
    torch.manual_seed(1)
    check(read(out), torch.nn.Linear(4, 3)(numbers).softmax(1).detach())


@pytest.mark.slow
def test_of_a_folder_of_images(run, folder, model, images):
    assert run("score", "their_model:make", "pool", "--batch-size", 3).code == 0
    x = torch.stack([images[name] for name in sorted(images)])
    check(read(folder / "scores.csv"), model(x).softmax(1).detach())


@pytest.mark.slow
def test_of_many_positions_it_is_the_mean_over_them(run, folder, numbers):
    np.save(folder / "places.npy", numbers[:6].view(3, 2, 4).numpy())
    ran = run("score", "other_models:of_places", "places.npy")
    assert ran.code == 0, ran.err
    torch.manual_seed(1)
    logits = torch.nn.Linear(4, 3)(numbers[:6].view(3, 2, 4))
    check(read(folder / "scores.csv"), logits.softmax(-1).mean(1).detach())


def test_of_labels_of_their_own(run, folder, numbers):
    ran = run("score", "other_models:flat", "pool.npy", "--likelihood", "bernoulli")
    assert ran.code == 0, ran.err
    torch.manual_seed(1)
    check(read(folder / "scores.csv"), torch.nn.Linear(4, 3)(numbers).sigmoid().detach())


@pytest.mark.filterwarnings("ignore:.*are NaN or infinite")
def test_a_sample_without_a_score_has_none(run, folder, numbers):
    numbers[2] = float("nan")
    np.save(folder / "pool.npy", numbers.numpy())
    assert run("score", "other_models:flat", "pool.npy").code == 0
    rows = read(folder / "scores.csv")
    assert rows[2]["predicted"] == rows[2]["confidence"] == rows[2]["score"] == ""
    assert all(row["predicted"] for row in rows[:2] + rows[3:])


def test_outputs_that_are_no_classes_have_none(run, folder, numbers):
    target = np.zeros((7, 3), dtype="float32")
    np.savez(folder / "pool.npz", x=numbers.numpy(), y=target)
    options = "--key", "x", "--target", "y", "--loss", "mse"
    ran = run("score", "other_models:flat", "pool.npz", *options)
    assert ran.code == 0, ran.err
    assert "predicted" not in read(folder / "scores.csv")[0]


@pytest.mark.slow
def test_a_run_that_was_stopped_tells_the_same(run, folder, model, images, monkeypatch):
    assert run("score", "their_model:make", "pool", "--out", "whole.csv").code == 0
    from fastgradnorm.cli import _score

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_score, "write_scores", full)
    # The page is not written either, and the scores are kept for the next time.
    assert run("score", "their_model:make", "pool", "--batch-size", 3).code == 1
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    ran = run("score", "their_model:make", "pool", "--batch-size", 5)
    assert ran.code == 0, ran.err
    check(read(folder / "scores.csv"), _probabilities(model, images))
    assert read(folder / "scores.csv") == read(folder / "whole.csv")


def _probabilities(model, images):
    return model(torch.stack([images[name] for name in sorted(images)])).softmax(1).detach()


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["pool", "pool.npy"])
def test_the_page_tells_it(run, folder, numbers, model, images, pool):
    name = "their_model:make" if pool == "pool" else "other_models:flat"
    ran = run("score", name, pool, "--report", "page")
    assert ran.code == 0, ran.err
    page = (folder / "page/index.html").read_text()
    rows = read(folder / "scores.csv")
    assert page.count("class ") >= len(rows)
    for row in rows:
        assert f"class {row['predicted']}, " in page
