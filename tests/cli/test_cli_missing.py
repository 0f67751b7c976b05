"""Tables in which a number is missing: told by row and column, or left out where that is asked."""

import csv
import json
import sys

import numpy as np
import pytest
import torch

from fastgradnorm import acquire

MODULE = """
import torch
from torch import nn

def plain():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3))

def standard():
    def transform(row):
        if row[0] > 90:
            raise RuntimeError("too hot")
        return row / 2
    return plain(), transform
"""
N, BAD = 12, (3, 8)
X = np.random.default_rng(4).standard_normal((N, 3)).astype(np.float32)
KEYS = ("--key", "a", "--key", "b", "--key", "c")


def cells(blank):
    rows = [[f"r{i}", *map(float, x)] for i, x in enumerate(X)]
    rows[3][2], rows[8][3] = blank, blank
    return rows


def write(kind, blank):
    names = ["id", "a", "b", "c"]
    if kind == "parquet":
        import pyarrow as pa

        pyarrow = pytest.importorskip("pyarrow.parquet")
        table = {n: [row[i] for row in cells(None)] for i, n in enumerate(names)}
        pyarrow.write_table(pa.table(table), "pool.parquet")
    elif kind == "jsonl":
        with open("pool.jsonl", "w") as file:
            for row in cells(None):
                file.write(json.dumps(dict(zip(names, row, strict=True))) + "\n")
    else:
        with open("pool.csv", "w", newline="") as file:
            csv.writer(file).writerows([names, *cells(blank)])


@pytest.fixture
def model(folder, monkeypatch):
    (folder / "lacking_model.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "lacking_model", raising=False)
    space = {}
    exec(MODULE, space)
    return space["plain"]().eval()


@pytest.mark.slow
@pytest.mark.parametrize("maker", ["plain", "standard"])
@pytest.mark.parametrize("keys", [(), KEYS], ids=["all", "keys"])
@pytest.mark.parametrize(
    "kind, blank", [("csv", ""), ("csv", " "), ("csv", "n/a"), ("jsonl", None), ("parquet", None)]
)
def test_a_missing_number(run, model, maker, keys, kind, blank):
    write(kind, blank)
    given = ("acquire", f"lacking_model:{maker}", f"pool.{kind}", 4, "--ids", "id", *keys)
    ran = run(*given)
    assert ran.code == 2
    assert f"2 of 12 rows of pool.{kind} cannot be used" in ran.err
    assert "row 3 (r3) has no number in column 'b'; row 8 (r8) has no number in col" in ran.err
    assert "--skip-bad" in ran.err
    ran = run(*given, "--skip-bad")
    assert ran.code == 0, ran.err
    assert "left out: row 3 (r3) has no number in column 'b'." in ran.err
    whole = [i for i in range(N) if i not in BAD]
    inputs = torch.from_numpy(X[whole]) / (2 if maker == "standard" else 1)
    made = acquire(model, [inputs], 4, progress=False)
    assert ran.out.split() == [f"r{whole[i]}" for i in made]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_rows_keep_their_numbers(run, model, kind):
    before = X[10, 0]
    X[10, 0] = 99
    try:
        write(kind, "")
    finally:
        X[10, 0] = before
    ran = run("acquire", "lacking_model:standard", f"pool.{kind}", 4, *KEYS, "--skip-bad")
    assert ran.code == 2
    assert "failed on row 10:" in ran.err
    ran = run("acquire", "lacking_model:plain", f"pool.{kind}", 10, *KEYS, "--skip-bad")
    assert sorted(map(int, ran.out.split())) == [i for i in range(N) if i not in BAD]


@pytest.mark.slow
def test_labels_that_are_missing(run, model, folder):
    rows = [[i % 3, *map(float, x)] for i, x in enumerate(X)]
    rows[5][0] = ""
    with open("pool.csv", "w", newline="") as file:
        csv.writer(file).writerows([["label", "a", "b", "c"], *rows])
    given = ("score", "lacking_model:plain", "pool.csv", "--scheme", "el2n", "--target", "label")
    ran = run(*given)
    assert (ran.code, "row 5 has no number in column 'label'" in ran.err) == (2, True)
    assert run(*given, "--skip-bad").code == 0
    with open("scores.csv") as file:
        assert [int(row["id"]) for row in csv.DictReader(file)] == [i for i in range(N) if i != 5]


def test_a_column_without_numbers_is_told_as_that(run, model, folder):
    (folder / "t.csv").write_text("a,b,c\n1,2,\n1,2,\n")
    ran = run("acquire", "lacking_model:plain", "t.csv", 1, "--skip-bad")
    assert (ran.code, "Column 'c' of t.csv has no number in any row" in ran.err) == (2, True)
    (folder / "t.csv").write_text("a,b,c\n1,2,\n1,2,red\n1,2,3\n")
    ran = run("acquire", "lacking_model:plain", "t.csv", 1, "--skip-bad")
    assert ran.code == 2
    assert "Row 1 has 'red'" in ran.err
