"""What a model's function returns beside it is applied to each sample, in every kind of pool."""

import csv
import json
import sys

import numpy as np
import pytest
import torch

from fastgradnorm import acquire, score_pool
from fastgradnorm.cli._samples import Arrays

MODULE = """
import torch
from torch import nn

MEAN, SCALE = torch.arange(5) * 3.0, torch.arange(5) ** 2 + 0.5

def plain():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))

def standard():
    def transform(row):
        assert row.dtype is torch.float32 and row.shape == (5,)
        row -= MEAN  # in its own place: what is kept of the pool stays as it is
        return row / SCALE
    return plain(), transform

def raising():
    def transform(row):
        if row[0] == MARK:
            raise RuntimeError("too hot")
        return row
    return plain(), transform

def no_tensor():
    return plain(), lambda row: None

def two_shapes():
    return plain(), lambda row: row[: 4 + int(row[0] == MARK)]

def pictures():
    def transform(pixels):
        assert pixels.dtype is torch.uint8 and pixels.shape == (8, 8, 3)  # as the file has it
        return pixels.permute(2, 0, 1) / 255 - 0.5
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), transform

def named():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(3)
            self.head = nn.Linear(5, 3)
        def forward(self, left, right):
            return self.head(left + right)
    return Sum(), lambda row: {"left": row["left"] * 2, "right": row["right"] - 1}
"""
N = 22
X = (np.random.default_rng(4).standard_normal((N, 5)) * 4).astype(np.float32)
X[7, 0] = MARK = 1.5
COLUMNS = [f"c{i}" for i in range(5)]
LEFT, RIGHT = X, X[::-1].copy()


def save_csv(path="pool.csv"):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *X.tolist()])


def save_jsonl():
    rows = (dict(zip(COLUMNS, x, strict=True)) for x in X.tolist())
    with open("pool.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def save_parquet(lists):
    pyarrow = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    rows = dict(zip(COLUMNS, X.T.tolist(), strict=True))
    pyarrow.write_table(pa.table({"x": X.tolist()} if lists else rows), "pool.parquet")


def save_safetensors():
    from safetensors.numpy import save_file

    save_file({"x": X}, "pool.safetensors")


FILES = {
    "csv": (save_csv, "pool.csv"),
    "jsonl": (save_jsonl, "pool.jsonl"),
    "parquet of columns": (lambda: save_parquet(False), "pool.parquet"),
    "parquet of lists": (lambda: save_parquet(True), "pool.parquet"),
    "npy": (lambda: np.save("pool.npy", X), "pool.npy"),
    "npz of float64": (lambda: np.savez("pool.npz", x=X.astype(np.float64)), "pool.npz"),
    "safetensors": (save_safetensors, "pool.safetensors"),
}


@pytest.fixture
def model(folder, monkeypatch):
    source = MODULE.replace("MARK", str(MARK))
    (folder / "standard_model.py").write_text(source)
    monkeypatch.delitem(sys.modules, "standard_model", raising=False)
    space = {}
    exec(source, space)
    return space["plain"]().eval()


def standardised(rows=X):
    mean, scale = torch.arange(5) * 3.0, torch.arange(5) ** 2 + 0.5
    return (torch.from_numpy(rows) - mean) / scale


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_rows_are_chosen_by_what_the_transform_makes_of_them(run, model, kind):
    write, path = FILES[kind]
    write()
    for command in ("acquire", "ask"):
        ran = run(command, "standard_model:standard", path, 6, "--strategy", "expected/all/top")
        assert ran.code == 0, ran.err
        made = acquire(model, [standardised()], 6, strategy="expected/all/top", progress=False)
        assert [*map(int, ran.out.split())] == made.indices.tolist()
    other = run("acquire", "standard_model:plain", path, 6, "--strategy", "expected/all/top")
    assert other.out.split() != [str(i) for i in made]


def test_a_transform_that_writes_into_its_row_leaves_the_pool_as_it_is():
    rows = Arrays({"x": torch.from_numpy(X.copy())}, None, lambda row: row.mul_(2))
    for _ in range(2):  # as of a second pass, or of the first samples once more
        torch.testing.assert_close(rows[3], torch.from_numpy(X[3]) * 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "npy", "parquet of columns"])
def test_scores_are_of_what_the_transform_makes(run, folder, model, kind):
    write, path = FILES[kind]
    write()
    assert run("score", "standard_model:standard", path).code == 0
    with (folder / "scores.csv").open() as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    expected = score_pool(model, [standardised()], progress=False)
    torch.testing.assert_close(torch.tensor(scores), expected.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("command", ["score", "acquire", "ask", "explain", "bench"])
@pytest.mark.parametrize("kind", ["csv", "npy"])
def test_what_a_transform_raises_is_told_with_the_row(run, model, kind, command):
    write, path = FILES[kind]
    write()
    given = ("6",) if command in ("acquire", "ask") else ()
    ran = run(command, "standard_model:raising", path, *given)
    assert ran.code == 2
    assert "The transform failed on row 7: RuntimeError: too hot" in ran.err
    assert "float32 [5]" in ran.err


@pytest.mark.parametrize(
    "maker, told",
    [
        ("no_tensor", "It returned NoneType for row 0. Let it return what the model takes"),
        ("two_shapes", "It returned [4] for row 0, [5] for row 7"),
    ],
)
def test_what_no_batch_can_be_made_of(run, model, maker, told):
    save_csv()
    ran = run("acquire", f"standard_model:{maker}", "pool.csv", 2)
    assert ran.code == 2
    assert told in ran.err


@pytest.mark.slow
def test_rows_of_other_samples_that_have_labels(run, model):
    save_csv()
    others = X[:4] + 0.25
    np.save("known.npy", others)
    ran = run("acquire", "standard_model:standard", "pool.csv", 6, "--labelled", "known.npy")
    made = acquire(model, [standardised()], 6, labelled=[standardised(others)], progress=False)
    assert [*map(int, ran.out.split())] == made.indices.tolist()


@pytest.mark.slow
def test_pictures_in_bytes_and_arrays_by_name(run, model):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    np.save("pixels.npy", pixels)
    assert run("acquire", "standard_model:pictures", "pixels.npy", 2).code == 0
    np.savez("two.npz", left=LEFT, right=RIGHT)
    ran = run("acquire", "standard_model:named", "two.npz", 6, "--strategy", "expected/all/top")
    torch.manual_seed(3)
    head = torch.nn.Linear(5, 3)
    inputs = torch.from_numpy(LEFT * 2 + (RIGHT - 1))
    made = acquire(head, [inputs], 6, strategy="expected/all/top", progress=False)
    assert [*map(int, ran.out.split())] == made.indices.tolist()


TEXTS = """
import torch
from torch import nn

def counts():
    def transform(text):
        return torch.tensor([1.0 / text.count("a"), len(text)])
    return nn.Linear(2, 3), transform
"""


def test_texts_of_which_the_transform_makes_nothing(run, folder, monkeypatch):
    (folder / "text_counts.py").write_text(TEXTS)
    monkeypatch.delitem(sys.modules, "text_counts", raising=False)
    (folder / "pool.txt").write_text("a cat\nan ant\nno one\n")
    ran = run("acquire", "text_counts:counts", "pool.txt", 1)
    assert ran.code == 2
    assert "The transform failed on the text 'no one': ZeroDivisionError" in ran.err
    ran = run("acquire", "text_counts:counts", "pool.txt", 1, "--tokenizer", "any")
    assert ran.code == 2
    assert "`--tokenizer` must be left out: MODEL returns a transform" in ran.err


@pytest.mark.slow
def test_a_size_of_images_that_a_transform_makes(run, folder):
    ran = run("acquire", "their_model:make_with_transform", "pool", 2, "--image-size", 8)
    assert ran.code == 2
    assert "`--image-size` must be left out: MODEL comes with a transform" in ran.err
    assert run("acquire", "their_model:make_with_transform", "pool", 2).code == 0
