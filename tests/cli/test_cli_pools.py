"""Every file that is a pool: `acquire` and `ask` choose what the function chooses of one tensor."""

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

def make():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
"""
N, K = 22, 8
X = np.random.default_rng(4).standard_normal((N, 5)).astype(np.float32)
NAMES = [f"sample {i}" for i in range(N)]
COLUMNS = [f"c{i}" for i in range(5)]
BY_COLUMN = [part for column in COLUMNS for part in ("--key", column)]


def rows():
    return [
        {"name": name, "label": "?", **dict(zip(COLUMNS, map(float, x), strict=True))}
        for name, x in zip(NAMES, X, strict=True)
    ]


def save_csv():
    with open("pool.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["name", "label", *COLUMNS])
        writer.writeheader()
        writer.writerows(rows())


def save_jsonl():
    with open("pool.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows())


def save_parquet(lists):
    pyarrow = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    table = {"name": NAMES, "x": X.tolist()} if lists else pa.Table.from_pylist(rows())
    pyarrow.write_table(pa.table(table) if lists else table, "pool.parquet")


def save_safetensors():
    from safetensors.torch import save_file

    save_file({"x": torch.from_numpy(X)}, "pool.safetensors")


# How it is written, its name, and what is said of it; names are indices where there are none.
FILES = {
    "npy": (lambda: np.save("pool.npy", X), "pool.npy", ()),
    "npz": (lambda: np.savez("pool.npz", x=X, names=NAMES), "pool.npz",
            ("--key", "x", "--ids", "names")),
    "safetensors": (save_safetensors, "pool.safetensors", ()),
    "csv": (save_csv, "pool.csv", (*BY_COLUMN, "--ids", "name")),
    "jsonl": (save_jsonl, "pool.jsonl", (*BY_COLUMN, "--ids", "name")),
    "parquet of columns": (lambda: save_parquet(False), "pool.parquet",
                           (*BY_COLUMN, "--ids", "name")),
    "parquet of lists": (lambda: save_parquet(True), "pool.parquet", ("--ids", "name")),
}  # fmt: skip


@pytest.fixture
def model(folder, monkeypatch):
    (folder / "pools_model.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "pools_model", raising=False)
    space = {}
    exec(MODULE, space)
    return space["make"]().eval()


def of(ran):
    """Indices of the names that were printed."""
    assert ran.code == 0, ran.err
    return [int(name.rpartition(" ")[2]) for name in ran.out.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["auto", "expected/all/top"])
@pytest.mark.parametrize("kind", FILES)
def test_acquire(run, folder, model, kind, strategy):
    write, path, said = FILES[kind]
    write()
    known = []
    while len(known) < N:
        k = min(K, N - len(known))
        given = ("acquire", "pools_model:make", path, k, *said, "--strategy", strategy)
        if known:
            names = [str(i) if "--ids" not in said else NAMES[i] for i in known]
            (folder / "labelled.txt").write_text("\n".join(names))
            given = (*given, "--labelled", "labelled.txt")
        chosen = of(run(*given))
        asked = {"labelled": known, "strategy": strategy, "progress": False}
        assert chosen == acquire(model, [torch.from_numpy(X)], k, **asked).indices.tolist()
        known += chosen
    assert sorted(known) == list(range(N))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "csv", "parquet of lists"])
def test_ask(run, folder, model, kind):
    write, path, said = FILES[kind]
    write()
    known = []
    for batch in (1, 2):
        ran = run("ask", "pools_model:make", path, K, *said)
        chosen = of(ran)
        made = acquire(model, [torch.from_numpy(X)], K, labelled=known, progress=False)
        assert chosen == made.indices.tolist()
        lines = ["id,label", *(f"{name},a" for name in ran.out.splitlines())]
        (folder / "answers.csv").write_text("\n".join(lines))
        assert run("tell", batch, "--answers", "answers.csv").code == 0
        known += chosen
