"""`--labelled` with other samples: those that the pool has too are not chosen again."""

import csv
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastgradnorm import acquire
from tests.cli.test_cli_texts import MODULE
from tests.support.texts import TEXTS, save

pytestmark = pytest.mark.slow

KNOWN = ["2.png", "deeper/1.png", "deeper/7.png"]


def inside(folder):
    """Where the labelled ones lie below the pool."""
    (folder / "pool" / "done").mkdir()
    for name in KNOWN:
        (folder / "pool" / name).rename(folder / "pool" / "done" / name.replace("/", "_"))
    return "pool/done", ["done/" + name.replace("/", "_") for name in KNOWN]


def copied(folder):
    """As `--copy-to` leaves them."""
    for name in KNOWN:
        (folder / "known" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "pool" / name, folder / "known" / name)
    return "known", KNOWN


def linked(folder):
    """As `--link-to` leaves them."""
    for name in KNOWN:
        (folder / "known" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "known" / name).symlink_to(folder / "pool" / name)
    return "known", KNOWN


def renamed(folder):
    """As people sort them by class."""
    for place, name in enumerate(KNOWN):
        (folder / "known" / f"class{place % 2}").mkdir(parents=True, exist_ok=True)
        file = folder / "known" / f"class{place % 2}" / f"{place}.png"
        shutil.copy(folder / "pool" / name, file)
    return "known", KNOWN


def with_others(folder):
    """Beside pictures that the pool has not."""
    place, known = renamed(folder)
    for shade in (10, 200):
        Image.new("RGB", (12, 12), (shade, 0, 255 - shade)).save(folder / place / f"{shade}.png")
    return place, known


@pytest.mark.parametrize("lay", [inside, copied, linked, renamed, with_others])
@pytest.mark.parametrize("strategy", ["top", "margin", "auto"])
def test_pictures_of_the_pool_in_another_folder(run, folder, model, lay, strategy):
    place, known = lay(folder)
    given = ("acquire", "their_model:make", "pool")
    ran = run(*given, 7, "--labelled", place, "--strategy", strategy)
    assert ran.code == 0, ran.err
    assert f"{place}: 3 of the pool are there too, and not chosen again" in ran.err
    found = ran.out.splitlines()
    names = sorted(str(p.relative_to(folder / "pool")) for p in (folder / "pool").rglob("*.png"))
    assert {*found} == {*names} - {*known}
    if strategy == "top":  # which nothing else that is labelled changes
        pool = [as_read(folder / "pool" / name) for name in names]
        asked = {"labelled": [names.index(n) for n in known], "strategy": "top", "progress": False}
        assert found == [names[i] for i in acquire(model, [torch.stack(pool)], 7, **asked)]
    ran = run(*given, 8, "--labelled", place, "--strategy", strategy)
    assert ran.code == 2
    assert "Of 10 samples 3 have a label already" in ran.err


def as_read(path):
    return torch.from_numpy(np.array(Image.open(path)).astype(np.float32) / 255).permute(2, 0, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_choice_starts_from_both(run, folder, model, images, workers):
    place, known = with_others(folder)
    names, pool = [*images], torch.stack([*images.values()])
    others = [as_read(folder / place / name) for name in ("10.png", "200.png")]
    before = torch.stack([images[name] for name in known] + others)
    chosen = acquire(model, [pool], 3, labelled=[before], strategy="coreset", progress=False)
    given = ("--strategy", "coreset", "--batch-size", 2, "--workers", workers)
    ran = run("acquire", "their_model:make", "pool", 3, "--labelled", place, *given)
    assert ran.out.splitlines() == [names[i] for i in chosen], ran.err


def test_frames_of_a_file_are_samples_by_themselves(run, folder):
    shades = [Image.new("RGB", (12, 12), (shade, shade, 9)) for shade in (0, 100, 200)]
    shades[0].save(folder / "pool" / "stack.tif", save_all=True, append_images=shades[1:])
    (folder / "known").mkdir()
    shutil.copy(folder / "pool" / "stack.tif", folder / "known" / "other.tif")
    given = ("acquire", "their_model:make", "pool", 10, "--labelled", "known", "--every-frame")
    ran = run(*given, "--strategy", "top")
    assert "known: 3 of the pool are there too" in ran.err
    assert not [name for name in ran.out.splitlines() if "stack" in name]


def test_files_of_one_size_that_differ_are_others(run, folder):
    (folder / "known").mkdir()
    for name in ("0", "1"):  # uncompressed: each file has the same number of bytes
        shade = 30 + 100 * int(name)
        Image.new("RGB", (12, 12), (shade, 1, 2)).save(folder / "pool" / f"{name}.bmp")
        Image.new("RGB", (12, 12), (shade, 1, 3)).save(folder / "known" / f"{name}.bmp")
    ran = run("acquire", "their_model:make", "pool", 12, "--labelled", "known")
    assert ran.code == 0, ran.err
    assert "not chosen again" not in ran.err


@pytest.fixture
def table(folder, monkeypatch):
    (folder / "text_model.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "text_model", raising=False)
    x = np.random.default_rng(0).normal(size=(12, 3)).round(3)
    return [{"id": f"r{i}", "a": a, "b": b, "c": c} for i, (a, b, c) in enumerate(x.tolist())]


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        made = pytest.importorskip("pyarrow").Table.from_pylist(rows)
        pytest.importorskip("pyarrow.parquet").write_table(made, path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0]])
            writer.writeheader()
            writer.writerows(rows)


def without_names(rows):
    return [{key: row[key] for key in "abc"} for row in rows]


def with_labels(rows):
    """As a training set has them: names of its own, and a label."""
    return [{**row, "id": f"x{i}", "label": "cat"} for i, row in enumerate(rows)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("made", [without_names, with_labels])
def test_a_table_of_other_samples(run, folder, table, suffix, made):
    space = {}
    exec(MODULE, space)
    model = space["make_table"]().eval()
    write(folder / f"pool.{suffix}", table)
    others = [{"id": "n", "a": 0.5, "b": -2.0, "c": 1.0}]
    write(folder / f"known.{suffix}", made([*table[:2], *others]))
    given = ("acquire", "text_model:make_table", f"pool.{suffix}")
    options = ("--ids", "id", "--labelled", f"known.{suffix}", "--strategy", "coreset")
    ran = run(*given, 4, *options)
    assert ran.code == 0, ran.err
    assert "2 of the pool are there too" in ran.err
    x = torch.tensor([[row[key] for key in "abc"] for row in [*table, *others]])
    before = torch.cat([x[:2], x[12:]])
    asked = {"labelled": [before], "strategy": "coreset", "progress": False}
    assert ran.out.splitlines() == [f"r{i}" for i in acquire(model, [x[:12]], 4, **asked)]
    assert "Of 12 samples 2 have a label already" in run(*given, 11, *options).err


def test_a_table_that_names_samples_still_does(run, folder, table):
    write(folder / "pool.csv", table)
    write(folder / "known.csv", table[:4])  # all its columns
    given = ("acquire", "text_model:make_table", "pool.csv", 9, "--ids", "id", "--labelled")
    assert "Of 12 samples 4 have a label already" in run(*given, "known.csv").err
    write(folder / "names.csv", [{"id": "r3"}, {"id": "stranger"}])
    assert "has 'stranger', which is none" in run(*given, "names.csv").err


@pytest.mark.parametrize("suffix", ["npz", "npy", "parquet"])
def test_arrays(run, folder, table, suffix):
    x = np.array([[row[key] for key in "abc"] for row in table], dtype=np.float32)
    known = np.concatenate([x[3:6], np.ones((2, 3), np.float32)])
    for name, rows in (("pool", x), ("known", known)):
        if suffix == "parquet":
            write(folder / f"{name}.parquet", [{"x": row.tolist()} for row in rows])
        elif suffix == "npz":
            np.savez(folder / f"{name}.npz", x=rows)
        else:
            np.save(folder / f"{name}.npy", rows)
    given = ("acquire", "text_model:make_table", f"pool.{suffix}", 9, "--strategy", "top")
    ran = run(*given, "--labelled", f"known.{suffix}")
    assert ran.code == 0, ran.err
    assert not {*ran.out.split()} & {"3", "4", "5"}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_texts(run, folder, suffix):
    pytest.importorskip("transformers")
    os.environ["HF_HUB_OFFLINE"] = "1"
    save(folder / "tuned")
    write(folder / f"pool.{suffix}", [{"nr": i, "body": text} for i, text in enumerate(TEXTS)])
    others = [*TEXTS[2:5], "a very very very very very long film", "the"]
    write(folder / f"known.{suffix}", [{"body": text, "stars": 2} for text in others])
    given = ("acquire", "tuned", f"pool.{suffix}", len(TEXTS) - 3, "--labelled")
    ran = run(*given, f"known.{suffix}", "--batch-size", 4)
    assert ran.code == 0, ran.err
    assert "3 of the pool are there too" in ran.err
    assert {*map(int, ran.out.split())} == {*range(len(TEXTS))} - {2, 3, 4}


KINDS = ("csv", "parquet")


def test_a_parquet_of_texts_needs_no_more_than_a_csv(run, folder):
    pytest.importorskip("transformers")
    os.environ["HF_HUB_OFFLINE"] = "1"
    save(folder / "tuned")
    rows = [{"nr": f"t{i}", "body": text} for i, text in enumerate(TEXTS)]
    for suffix in KINDS:
        write(folder / f"pool.{suffix}", rows)
    given = ("--ids", "nr")
    told = {suffix: run("acquire", "tuned", f"pool.{suffix}", 3, *given) for suffix in KINDS}
    assert told["csv"].code == 0, told["csv"].err
    assert told["parquet"].out == told["csv"].out
    assert "Texts: the column 'body'" in told["parquet"].err
    for suffix in KINDS:
        ran = run("acquire", "tuned", f"pool.{suffix}", 3)
        assert f"holds the texts. pool.{suffix} has nr, body" in ran.err
    told = run("acquire", "their_model:make", "pool.parquet", 3).err
    assert "--ids nr" in told
    assert "--text nr" in told
