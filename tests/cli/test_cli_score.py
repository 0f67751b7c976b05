"""`fastgradnorm score` and `select`: from a model and a pool to names of samples."""

import csv
import json
import re
import statistics

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fastgradnorm import PoolScores
from tests.support import oracle
from tests.support.asserts import assert_close_relative


def exact(model, images, scheme="expected"):
    return oracle.scores(model, oracle.ones(torch.stack(list(images.values()))), scheme)


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_scores_of_a_folder_are_those_of_the_oracle(run, folder, model, images):
    ran = run("score", "their_model:make", "pool")
    assert ran.code == 0, ran.err
    rows = read(folder / "scores.csv")
    assert [row["id"] for row in rows] == sorted(images)
    scores = torch.tensor([float(row["score"]) for row in rows])
    assert_close_relative(scores, exact(model, dict(sorted(images.items()))), 1e-5)
    assert not (folder / "scores.csv.checkpoint").exists()
    best = max(rows, key=lambda row: float(row["score"]))
    assert best["rank"] == "1"
    assert run("select", "scores.csv", 1).out == f"{best['id']}\n"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "npz"])
def test_every_kind_of_file_gives_the_same_selection(run, folder, suffix):
    out = folder / f"new/scores.{suffix}"
    assert run("score", "their_model:make", "pool", "--out", out).code == 0
    assert run("score", "their_model:make", "pool").code == 0
    chosen = run("select", out, 4, "--strategy", "gumbel", "--seed", 3).out.split()
    names = run("select", "scores.csv", 4, "--strategy", "gumbel", "--seed", 3).out.split()
    assert len(set(names)) == 4
    if suffix == "npz":  # keeps no names
        names = [str(sorted(p.id for p in _rows(folder)).index(name)) for name in names]
    assert chosen == names


@pytest.mark.parametrize("suffix", ["npz", "csv", "jsonl", "parquet"])
@pytest.mark.parametrize("indices", [[2, 5, 9], [9, 0, 4], [3, 4, 1], [7, 6, 5], [100, 0, 50]])
def test_selections_of_a_part_of_a_pool_are_indices_of_the_pool(run, tmp_path, suffix, indices):
    values, chosen = torch.tensor([0.5, 3.0, 2.0]), [indices[1], indices[2]]
    scores = PoolScores(values, None, {"scheme": "expected"}, torch.tensor(indices))
    path = tmp_path / f"scores.{suffix}"
    writer = {"npz": "save"}.get(suffix, f"to_{suffix}")
    getattr(scores, writer)(path)
    assert run("select", path, 2).out.split() == [str(i) for i in chosen]
    assert scores.select(2).tolist() == chosen
    twice = PoolScores(torch.tensor([2.0, 5.0, 5.0]), None, {}, torch.tensor([8, 6, 6]))
    getattr(twice, writer)(path)
    assert run("select", path, 2).out.split() == ["6", "8"]
    assert run("select", path, 3).code == 2


def _rows(folder):
    return [type("Row", (), row) for row in read(folder / "scores.csv")]


@pytest.mark.slow
def test_weights_options_and_seeded_subsets_reach_the_scorer(run, folder, model, images):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, "w.pt")
    save_file(model.state_dict(), "w.safetensors")
    expected = oracle.norms(model, oracle.ones(torch.stack([images[n] for n in sorted(images)])))
    heads = expected.scores("entropy", keep=lambda name: name.startswith("4."))
    for weights in ("w.pt", "w.safetensors"):
        ran = run(
            "score", "their_model:make", "pool", "--weights", weights, "--scheme", "entropy",
            "--params", r"^4\.", "--out", "e.npz",
        )  # fmt: skip
        assert ran.code == 0, ran.err
        assert_close_relative(PoolScores.load("e.npz").values, heads, 1e-5)


@pytest.mark.slow
def test_arrays_of_pictures_and_of_several_inputs(run, folder, model, images):
    pixels = np.stack([(images[n].permute(1, 2, 0).numpy() * 255).round() for n in sorted(images)])
    np.savez("pool.npz", x=pixels.astype(np.uint8), name=np.array(sorted(images)))
    ran = run("score", "their_model:make", "pool.npz", "--key", "x", "--ids", "name")
    assert ran.code == 0, ran.err
    rows = read(folder / "scores.csv")
    assert [row["id"] for row in rows] == sorted(images)
    scores = torch.tensor([float(row["score"]) for row in rows])
    assert_close_relative(scores, exact(model, dict(sorted(images.items()))), 1e-5)

    left, right = torch.randn(6, 4), torch.randn(6, 4)
    save_file({"left": left, "right": right}, "pool.safetensors")
    assert run("score", "their_model:make_two_inputs", "pool.safetensors").code == 0
    from_safetensors = [row["score"] for row in read(folder / "scores.csv")]
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(
        {"left": left.tolist(), "right": right.tolist(), "file": [f"f{i}" for i in range(6)]}
    )
    pyarrow.parquet.write_table(table, "pool.parquet")
    assert run("score", "their_model:make_two_inputs", "pool.parquet", "--ids", "file").code == 0
    rows = read(folder / "scores.csv")
    assert [row["score"] for row in rows] == from_safetensors
    assert rows[5]["id"] == "f5"


@pytest.mark.slow
def test_a_transform_of_the_users_own_takes_pictures_of_any_size(run, folder):
    Image.new("RGB", (7, 9)).save("pool/other.png")
    ran = run("score", "their_model:make", "pool")
    assert (ran.code, "differ in size" in ran.err) == (2, True)
    assert run("score", "their_model:make_with_transform", "pool").code == 0
    assert run("score", "their_model:make", "pool", "--image-size", 8).code == 0
    assert len(read(folder / "scores.csv")) == 11


@pytest.mark.slow
def test_the_report_shows_both_ends(run, folder):
    ran = run("score", "their_model:make", "pool", "--report", "report")
    assert ran.code == 0, ran.err
    html = (folder / "report" / "index.html").read_text()
    names = re.findall(r'alt="([^"]+\.png)"', html)
    rows = sorted(read(folder / "scores.csv"), key=lambda row: int(row["rank"]))
    ranking = [row["id"] for row in rows]
    assert names == ranking + ranking[::-1]
    assert not re.search(r"https?://|<script", html)
    assert "their_model:make, weights as it makes them" in html
    scores = [float(row["score"]) for row in rows]
    assert f"<b>{statistics.median(scores):.3g}</b>the median score" in html
    assert ran.out.splitlines()[-1] == "Next: fastgradnorm select scores.csv 1"
    assert "samples that differ are chosen by `fastgradnorm acquire`" in ran.out
    assert run(*ran.out.splitlines()[-1].split()[2:]).out == f"{ranking[0]}\n"


@pytest.mark.slow
def test_names_of_any_length_and_spelling_fit_under_their_pictures(run, folder):
    name = "a" * 200 + "<b>&.png"
    Image.new("RGB", (12, 12)).save(folder / "pool" / "deeper" / name)
    assert run("score", "their_model:make", "pool", "--report", "report").code == 0
    html = (folder / "report" / "index.html").read_text()
    shown = "a" * 200 + "&lt;b&gt;&amp;.png"
    assert f'<span class="name" title="deeper/{shown}">{shown}</span>' in html
    assert "<b>&.png" not in html
    assert "repeat(8, minmax(0, 1fr))" in html  # columns that do not grow with what is in them


@pytest.mark.slow
def test_explain_and_bench(run):
    table = run("explain", "their_model:make", "pool")
    assert "0.weight" in table.out
    found = json.loads(run("explain", "their_model:make", "pool", "--json").out)
    assert found
    bench = json.loads(
        run("bench", "their_model:make", "pool", "--samples", 4, "--repeats", 1, "--json").out
    )
    assert bench["samples"] == 4
    assert bench["largest_relative_difference"] < 1e-5
    assert bench["speed_up"] > 0
    assert "samples/s" in run("bench", "their_model:make", "pool", "--samples", 2).out


class TestNoticed:
    """What looks wrong stands in the summary and on the page."""

    @pytest.fixture
    def probabilities(self, folder):
        with (folder / "their_model.py").open("a") as file:
            file.write("\n\ndef make_ended():\n    return nn.Sequential(make(), nn.Softmax(1))\n")
        return "their_model:make_ended"

    @pytest.mark.slow
    @pytest.mark.filterwarnings("always::fastgradnorm.DoubtfulScoresWarning")
    def test_told_and_kept(self, run, folder, probabilities):
        ran = run("score", probabilities, "pool", "--report", "page", "--out", "found.npz")
        assert ran.code == 0, ran.err
        assert "fastgradnorm: warning: `MODEL` must return logits" in ran.err
        assert (ran.out + ran.err).count("must return logits") == 1  # it was told twice
        page = (folder / "page/index.html").read_text()
        assert "What was noticed" in page and "must return logits" in page
        (found,) = PoolScores.load("found.npz").provenance["findings"]
        assert found["kind"] == "probabilities" and found["level"] == "warn"
        assert "in doubt: probabilities" in str(PoolScores.load("found.npz"))

    @pytest.mark.slow
    def test_nothing_to_tell(self, run, folder):
        ran = run("score", "their_model:make", "pool", "--report", "page", "--out", "found.npz")
        assert ran.code == 0, ran.err
        assert "Noticed" not in ran.out and "in doubt" not in ran.out
        page = (folder / "page/index.html").read_text()
        assert "What was noticed" not in page and "nothing unusual" in page
        assert PoolScores.load("found.npz").provenance["findings"] == []
