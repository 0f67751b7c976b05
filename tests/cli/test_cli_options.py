"""Every option of every command has its effect: another value gives another, known, result."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
import typer

from fastgradnorm import GradNormScorer, PoolScores, select
from fastgradnorm.cli import _bench, _given
from fastgradnorm.cli._app import build_app
from tests.support import oracle
from tests.support.asserts import assert_close_relative

MODULE = """
import torch
from torch import nn

def make(outputs=4):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, outputs))
    with torch.no_grad():
        model[2].weight.mul_(3)
    return model

def make_many():
    return make(30)

class Last(nn.Module):  # [N, 2, 3]
    def __init__(self):
        super().__init__()
        self.inner = make(3)
    def forward(self, x):
        return self.inner(x[:, None] * torch.arange(1., 3.)[:, None])

def make_dense():
    return Last()

class Undefined(nn.Linear):
    def forward(self, x):
        return super().forward(x).log()

def make_nan():
    return Undefined(5, 3)
"""

# Where an option's effect is shown: here by a test's name, or in another file.
SHOWN = {
    "score": {
        "loss": "test_cli_losses", "target": "test_cli_losses",
        "weights": "test_weights", "scheme": "test_schemes", "params": "test_parameters",
        "rtol": "test_a_relative_error", "class_dim": "test_a_class_dimension",
        "likelihood": "test_cli_wording",
        "device": "test_a_device", "key": "test_arrays_and_names", "ids": "test_arrays_and_names",
        "image_size": "test_cli_pictures", "skip_bad": "test_cli_failures",
        "every_frame": "test_cli_images", "text": "test_cli_texts",
        "tokenizer": "test_cli_texts", "max_length": "test_cli_texts",
        "batch_size": "test_batches_and_workers", "workers": "test_batches_and_workers",
        "out": "test_cli_score", "report": "test_cli_pictures",
        "resume": "test_an_old_checkpoint", "classes": "test_cli_classes",
    },
    "acquire": dict.fromkeys(
        ["labelled", "strategy", "seed", "max_per_folder", "max_similarity", "out", "report",
         "copy_to", "link_to", "paths", "workers"], "test_cli_acquire",
    ) | {"checkpoint": "test_cli_resuming", "resume": "test_cli_resuming",
         "space": "test_cli_wording", "classes": "test_cli_classes"},
    "ask": dict.fromkeys(["campaign", "labelled", "strategy", "seed", "paths"], "test_cli_campaign")
    | {"resume": "test_cli_resuming", "space": "test_cli_wording"},
    "tell": dict.fromkeys(["campaign", "answers", "release"], "test_cli_campaign"),
    "status": dict.fromkeys(["campaign"], "test_cli_campaign"),
    "labels": dict.fromkeys(["campaign", "out"], "test_cli_campaign"),
    "select": {
        "strategy": "test_chosen_by_chance", "seed": "test_chosen_by_chance",
        "out": "test_a_list_of_names",
    },
    "explain": {"measure": "test_what_is_explained", "as_json": "test_what_is_explained"},
    "bench": {
        "samples": "test_what_is_timed", "repeats": "test_what_is_timed",
        "as_json": "test_what_is_timed",
    },
    "demo": dict.fromkeys(["out", "seeds", "quick"], "test_cli_demo"),
}  # fmt: skip


def test_every_option_is_shown():
    """Whoever adds an option says where its effect is tested."""
    commands = typer.main.get_command(build_app()).commands
    assert {*commands} == {*SHOWN}
    own = {"classes", "out", "report", "resume", "workers"}
    shared = {*SHOWN["score"]} - own
    for name, command in commands.items():
        there = {p.name for p in command.params if p.param_type_name == "option"} - {"help"}
        wanted = {*SHOWN[name]} | (
            shared if name in ("acquire", "ask", "explain", "bench") else set()
        )
        if name in ("acquire", "ask"):
            wanted -= {"loss", "target"}  # there are no labels
        assert there == wanted, name
    here = {text for shown in SHOWN.values() for text in shown.values() if "cli" not in text}
    assert here <= {*globals()}


@pytest.fixture
def pool(folder, monkeypatch):
    """Inputs `[N, 5]` in `pool.npz`, beside others, and names; makers in `options_model`."""
    (folder / "options_model.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "options_model", raising=False)
    x = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    names = np.array([f"n{i}" for i in range(12)])
    np.savez(folder / "pool.npz", x=x, other=3 * x, names=names)
    np.savez(folder / "plain.npz", x=x)
    return torch.from_numpy(x)


@pytest.fixture
def made(pool):
    space = {}
    exec(MODULE, space)
    return lambda name="make": space[name]().eval()


def table(model, x, **options):
    return oracle.norms(model, oracle.ones(x), **options)


@pytest.fixture
def scored(run, folder):
    """The values that `fastgradnorm score` gives for some arguments."""

    def call(*arguments, model="make", pool="plain.npz"):
        ran = run("score", f"options_model:{model}", pool, "--out", "s.npz", *arguments)
        assert ran.code == 0, ran.err
        return PoolScores.load(folder / "s.npz")

    return call


@pytest.mark.slow
def test_weights(scored, made, pool, folder):
    for scale in (1.0, 2.0):
        model = made()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(scale)
        torch.save(model.state_dict(), folder / "w.pt")
        expected = table(model, pool).scores("expected")
        assert_close_relative(scored("--weights", "w.pt").values, expected, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", oracle.SCHEMES)
def test_schemes(scored, made, pool, scheme):
    expected = table(made(), pool).scores(scheme)
    assert_close_relative(scored("--scheme", scheme).values, expected, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("params, keep", [
    ("all", lambda name: True),
    ("last_layer", lambda name: name.startswith("2.")),
    ("bias$", lambda name: name.endswith("bias")),
])  # fmt: skip
def test_parameters(scored, made, pool, params, keep):
    expected = table(made(), pool).scores("expected", keep=keep)
    assert_close_relative(scored("--params", params).values, expected, 1e-5)


@pytest.mark.slow
def test_a_relative_error(scored, made, pool):
    exact, estimated = scored(model="make_many"), scored("--rtol", 0.3, model="make_many")
    assert exact.standard_error is None
    assert bool((estimated.standard_error > 0).any())
    assert estimated.provenance["options"]["rtol"] == 0.3
    assert not torch.equal(exact.values, estimated.values)


# Of the other dimension scores mean little, as they then say.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fastgradnorm.DoubtfulScoresWarning")
def test_a_class_dimension(scored, made, pool):
    for class_dim in (1, 2):
        options = {"class_dim": class_dim}
        expected = table(made("make_dense"), pool, **options).scores("entropy")
        arguments = ("--class-dim", class_dim, "--scheme", "entropy")
        assert_close_relative(scored(*arguments, model="make_dense").values, expected, 1e-5)


@pytest.mark.slow
def test_a_device(run, pool, scored):
    assert len(scored("--device", "cpu")) == 12
    ran = run("score", "options_model:make", "plain.npz", "--device", "abacus")
    assert (ran.code, "`--device` must be usable here. Got 'abacus'" in ran.err) == (2, True)


@pytest.mark.slow
def test_arrays_and_names(run, folder, made, pool):
    for key, scale in (("x", 1.0), ("other", 3.0)):
        ran = run("score", "options_model:make", "pool.npz", "--key", key, "--ids", "names")
        assert ran.code == 0, ran.err
        with (folder / "scores.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["id"] for row in rows] == [f"n{i}" for i in range(12)]
        actual = torch.tensor([float(row["score"]) for row in rows])
        assert_close_relative(actual, table(made(), scale * pool).scores("expected"), 1e-5)


@pytest.mark.slow
def test_batches_and_workers(run, pool, monkeypatch):
    seen, real = [], _given.DataLoader

    def noted(dataset, batch_size, num_workers=0):
        seen.append((batch_size, num_workers))
        return real(dataset, batch_size)

    monkeypatch.setattr(_given, "DataLoader", noted)
    for batch_size, workers in ((3, 0), (5, 2)):
        options = ("--batch-size", batch_size, "--workers", workers)
        assert run("score", "options_model:make", "plain.npz", *options).code == 0
        assert seen.pop() == (batch_size, workers)


@pytest.mark.slow
def test_an_old_checkpoint(run, folder, pool):
    """Refused where it is of another model; left out where it is not wanted."""
    other = torch.nn.Linear(5, 2)
    old = folder / "scores.csv.checkpoint"
    GradNormScorer(other, checkpoint=old, progress=False).score([pool])
    ran = run("score", "options_model:make", "plain.npz")
    assert (ran.code, "--no-resume" in ran.err) == (2, True)
    assert run("score", "options_model:make", "plain.npz", "--no-resume").code == 0
    assert len((folder / "scores.csv").read_text().splitlines()) == 13


@pytest.mark.filterwarnings("ignore:.* NaN or infinite")
def test_scores_that_are_not_finite_cost_no_others(run, folder, pool):
    assert run("score", "options_model:make_nan", "plain.npz").code == 0
    assert len((folder / "scores.csv").read_text().splitlines()) == 13


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "npz"])
def test_chosen_by_chance(run, folder, suffix):
    values = torch.rand(60) + 0.1
    values[7] = torch.nan
    getattr(PoolScores(values), {"npz": "save"}.get(suffix, f"to_{suffix}"))(f"s.{suffix}")
    told = {}
    for strategy in ("top", "gumbel", "proportional"):
        for seed in (3, 4):
            ran = run("select", f"s.{suffix}", 12, "--strategy", strategy, "--seed", seed)
            told[strategy, seed] = ran.out.split()
            expected = select(values, 12, strategy=strategy, seed=seed).tolist()
            assert told[strategy, seed] == [str(i) for i in expected]
    assert len({*map(tuple, told.values())}) == 5  # the seed has no part in the best
    assert "7" not in run("select", f"s.{suffix}", 59).out.split()


def test_a_list_of_names(run, folder):
    PoolScores(torch.rand(9)).to_csv("s.csv")
    shown = run("select", "s.csv", 4).out
    ran = run("select", "s.csv", 4, "--out", "names.txt")
    assert (ran.code, ran.out, (folder / "names.txt").read_text()) == (0, "", shown)


@pytest.mark.slow
def test_what_is_explained(run, pool):
    plain, measured = (
        json.loads(run("explain", "options_model:make", "plain.npz", "--json", *given).out)
        for given in ([], ["--measure"])
    )
    assert plain["seconds"] is None
    assert measured["seconds"] > 0
    assert all(row["share"] is not None for row in measured["rows"])
    head = run("explain", "options_model:make", "plain.npz", "--params", "last_layer").out
    assert ("2.weight" in head, "0.weight" in head) == (True, False)


@pytest.mark.slow
def test_what_is_timed(run, pool, monkeypatch):
    calls = []
    real = _bench.score_pool
    monkeypatch.setattr(
        _bench, "score_pool", lambda *args, **options: calls.append(1) or real(*args, **options)
    )
    shared = ["--scheme", "entropy", "--params", "last_layer", "--class-dim", "-1", "--json"]
    for samples, repeats in ((3, 1), (5, 2)):
        given = ["--samples", samples, "--repeats", repeats, *shared]
        told = json.loads(run("bench", "options_model:make_dense", "plain.npz", *given).out)
        assert (told["samples"], told["repeats"]) == (samples, repeats)
        assert told["largest_relative_difference"] < 1e-4
        assert len(calls) == 1 + repeats
        calls.clear()
