"""The commands that try other libraries' models and random ones tell what came of them."""

import json
import os
import warnings

import pytest
import torch
from fastgradnorm_kernels.functorch import current_level
from torch import nn

import fastgradnorm
from benchmarks import fuzz
from benchmarks.zoo import command, table
from benchmarks.zoo.judge import CLASSES, SAMPLES, Family, judge
from tests.support.cases import Custom
from tests.support.grammar import Spec
from tests.support.makers import Layer
from tests.support.wider import WideSpec


def family(model, name="some", batch=None):
    batch = torch.randn(SAMPLES, 4) if batch is None else batch
    return Family("some", name, lambda: (model, batch, "a model"))


class Split(nn.Module):
    """A branch of its own for every sample: the slow path."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.body(x) * x.sum().item()


def failing(x):
    if current_level() is not None:
        raise ZeroDivisionError("only within the engine")
    return x


class TestJudge:
    def test_exact(self):
        row = judge(family(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))))
        assert row["outcome"] == "exact"
        assert row["loop"] == "float64"
        assert row["error"] < 1e-5
        assert row["parameters"] == 43

    def test_activations_whose_squares_overflow_are_no_case(self):
        model = nn.Sequential(nn.Linear(4, 5), Custom(lambda m, x: 1e25 * x), nn.Sigmoid(),
                              nn.Linear(5, CLASSES))  # fmt: skip
        row = judge(family(model))
        assert row["outcome"] == "not made" and "activations of" in row["message"]

    def test_wrong(self, monkeypatch):
        right = fastgradnorm.score_pool
        monkeypatch.setattr(fastgradnorm, "score_pool", lambda *a, **k: 1.01 * right(*a, **k))
        row = judge(family(nn.Linear(4, CLASSES)))
        assert row["outcome"] == "wrong"
        assert row["error_float64"] == pytest.approx(0.01)

    def test_refused(self):
        norm = nn.BatchNorm1d(4, track_running_stats=False)
        model = Custom(lambda m, x: m.head(m.norm(x)), norm=norm, head=nn.Linear(4, CLASSES))
        row = judge(family(model, batch=torch.randn(SAMPLES, 4, 3).mT.contiguous().mean(1)))
        assert row["outcome"] in ("refused", "not made")  # one value a channel has no variance
        conv = nn.Sequential(
            nn.Conv1d(2, 4, 1), nn.BatchNorm1d(4, track_running_stats=False), nn.Flatten(),
            nn.Linear(12, CLASSES),
        )  # fmt: skip
        row = judge(family(conv, batch=torch.randn(SAMPLES, 2, 3)))
        assert row["outcome"] == "refused"
        assert "mixes samples" in row["message"]

    def test_slow(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row = judge(family(Split()))
        assert row["outcome"] == "slow"
        assert "branch of its own" in row["message"]

    def test_crashed(self):
        model = Custom(lambda m, x: m.body(failing(x)), body=nn.Linear(4, CLASSES))
        row = judge(family(model))
        assert row == row | {"outcome": "crashed"}
        assert "ZeroDivisionError" in row["message"]

    @pytest.mark.parametrize("fault", ["raises", "shape", "nan"])
    def test_not_made(self, fault):
        def forward(m, x):
            if fault == "raises":
                raise OSError("no file")
            return m.body(x)[:, None] if fault == "shape" else m.body(x) * torch.nan

        row = judge(family(Custom(forward, body=nn.Linear(4, CLASSES))))
        assert row["outcome"] == "not made"


class TestCommand:
    @pytest.fixture
    def pool(self, monkeypatch):
        found = {"good": nn.Linear(4, CLASSES), "split": Split()}
        monkeypatch.setattr(
            command, "families", lambda libraries: [family(m, n) for n, m in found.items()]
        )
        return found

    @pytest.mark.slow
    def test_a_crash_of_the_process_is_an_outcome(self, pool, tmp_path, capsys):
        pool["dead"] = Custom(lambda m, x: os.abort(), body=nn.Linear(4, CLASSES))
        assert command.main(tmp_path) == 1
        stored = json.loads((tmp_path / "zoo.json").read_text())
        outcomes = {key: row["outcome"] for key, row in stored["rows"].items()}
        assert outcomes == {"some/good": "exact", "some/split": "slow", "some/dead": "crashed"}
        assert "SIGABRT" in stored["rows"]["some/dead"]["message"]
        assert stored["provenance"]["commit"] is not None

    @pytest.mark.slow
    def test_it_goes_on_where_it_was(self, pool, tmp_path, monkeypatch, capsys):
        assert command.main(tmp_path) == 0
        judged = []
        monkeypatch.setattr(command, "_apart", lambda f: judged.append(f.name) or {"outcome": "x"})
        command.main(tmp_path)
        assert judged == []
        command.main(tmp_path, again=["slow"])
        assert judged == ["split"]
        command.main(tmp_path, only=["good"])
        assert judged == ["split", "good"]

    @pytest.mark.slow
    def test_the_page_tells_all(self, pool, tmp_path, capsys):
        command.main(tmp_path)
        text = table.page(json.loads((tmp_path / "zoo.json").read_text()))
        assert "| some | 2 | 1 | 1 | 0 | 0 | 0 |" in text
        assert "| some/split | slow | each sample takes a branch of its own |" in text
        assert "good." in text


def spec(*layers, **options):
    made = Spec("vector", layers, "mean", (), 0)
    return WideSpec(made, **{"inputs": "tensor"} | options)


class TestFuzz:
    @pytest.mark.parametrize("inputs", ["tensor", "tuple", "mapping"])
    def test_right_scores_are_no_disagreement(self, inputs):
        assert fuzz.disagreement(spec(Layer("cast", (("way", "same"),)), inputs=inputs)) is None

    def test_wrong_scores_are(self, monkeypatch):
        right = fastgradnorm.score_pool

        def wrong(*args, **options):
            return {k: v * (1 + 1e-6) for k, v in right(*args, **options).items()}

        monkeypatch.setattr(fastgradnorm, "score_pool", wrong)
        assert "relative error" in fuzz.disagreement(spec(Layer("buffer", (("way", "scale"),))))

    @pytest.mark.slow
    def test_failures_are_stored_and_parts_not_drawn_again(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(fuzz, "PART", 3)
        monkeypatch.setattr(fuzz, "disagreement", lambda spec: "wrong" if spec.inputs else None)
        assert fuzz.main(tmp_path, count=6) == 1
        stored = json.loads((tmp_path / "fuzz.json").read_text())
        assert (stored["models"], stored["failures"]) == (6, 6)
        assert [part["seed"] for part in stored["parts"]] == [0, 1]
        monkeypatch.setattr(fuzz, "disagreement", lambda spec: None)
        fuzz.main(tmp_path, count=9)
        stored = json.loads((tmp_path / "fuzz.json").read_text())
        assert (stored["models"], stored["failures"]) == (9, 6)
