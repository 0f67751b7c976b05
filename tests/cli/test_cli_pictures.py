"""Pictures in the command line: of which size, how they lie, and the page that shows them."""

import csv
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastgradnorm import PoolScores
from fastgradnorm.cli import _report
from tests.support import oracle
from tests.support.asserts import assert_close_relative

VECTORS = """
import torch

def make():
    torch.manual_seed(0)
    return torch.nn.Linear(5, 3)
"""


@pytest.mark.slow
def test_sizes_of_images(run, folder, model, images):
    """Of the size asked for, height and width in their places."""
    for path in (folder / "pool").rglob("*.png"):
        Image.open(path).resize((9, 7)).save(path)
    found = {}
    for size in (None, 6, 11):
        given = [] if size is None else ["--image-size", size]
        assert run("score", "their_model:make", "pool", "--out", "s.npz", *given).code == 0
        found[size] = PoolScores.load(folder / "s.npz").values
        names = sorted(images)
        pictures = [Image.open(folder / "pool" / name).convert("RGB") for name in names]
        if size is not None:
            pictures = [p.resize((size, size), Image.Resampling.BILINEAR) for p in pictures]
        x = torch.from_numpy(np.stack([np.array(p, dtype=np.float32) / 255 for p in pictures]))
        expected = oracle.scores(model, oracle.ones(x.permute(0, 3, 1, 2)))
        assert_close_relative(found[size], expected, 1e-5)


@pytest.mark.slow
def test_pictures_in_arrays_lie_as_they_are(run, folder, model):
    """Neither square nor symmetric, so that height and width cannot change places."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 12, 7, 3), dtype=np.uint8)
    np.savez(folder / "pictures.npz", pixels)
    assert run("score", "their_model:make", "pictures.npz", "--out", "s.npz").code == 0
    x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(0, 3, 1, 2)
    expected = oracle.scores(model, oracle.ones(x))
    assert_close_relative(PoolScores.load(folder / "s.npz").values, expected, 1e-5)


@pytest.mark.slow
def test_the_page_gives_the_formula_of_its_scheme(run, folder, monkeypatch):
    monkeypatch.setattr(_report, "draw", lambda *given: "")
    monkeypatch.setattr(_report, "chart", lambda *given: "")  # most of the time that a page takes
    for scheme, formula in (("expected", "Σ p(c) ‖∇loss(x, c)‖."), ("entropy", "‖∇H(p)‖.")):
        ran = run("score", "their_model:make", "pool", "--report", "page", "--scheme", scheme)
        assert ran.code == 0, ran.err
        assert formula in (folder / "page" / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [True, False])
def test_both_ends_of_a_large_pool(run, folder, pictures, monkeypatch):
    """More samples than the page shows: the best 20, and the worst 20 from the end."""
    if pictures:
        (folder / "many").mkdir()
        for i in range(45):
            color = tuple(np.random.default_rng(i).integers(0, 256, 3).tolist())
            Image.new("RGB", (8, 8), color).save(folder / "many" / f"{i:02d}.png")
        given = ["their_model:make", "many"]
    else:
        (folder / "vectors.py").write_text(VECTORS)
        monkeypatch.delitem(sys.modules, "vectors", raising=False)
        np.savez(folder / "many.npz", x=torch.randn(45, 5).numpy())
        given = ["vectors:make", "many.npz"]
    for scheme, formula in (("expected", "Σ p(c) ‖∇loss(x, c)‖."), ("entropy", "‖∇H(p)‖.")):
        ran = run("score", *given, "--report", "page", "--scheme", scheme)
        assert ran.code == 0, ran.err
        html = (folder / "page" / "index.html").read_text()
        with (folder / "scores.csv").open() as file:
            rows = sorted(csv.DictReader(file), key=lambda row: int(row["rank"]))
        ranking = [row["id"] for row in rows]
        pattern = r'alt="([^"]+\.png)"' if pictures else r'<th scope="row">(\d+)</th>'
        assert re.findall(pattern, html) == ranking[:20] + ranking[:-21:-1]
        assert formula in html
        values = [float(row["score"]) for row in rows]
        share = 100 * sum(values[:4]) / sum(values)
        assert f"{share:.0f}\xa0%" in html
