"""Calls of `score_batch` on models that read what stands elsewhere, and changes of that in between.

Modules that a function imports itself or hands on, classes of classes, the environment, switches
and functions of PyTorch's: traces of before were replayed, so that scores were of before.
"""

import os
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import GradNormScorer, naive_score_pool
from fastgradnorm._engine import traces
from tests.support.asserts import assert_close_relative
from tests.support.tracing import eager, replayed  # noqa: F401

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
theirs = types.ModuleType("theirs")  # another file of the caller's
imported = sys.modules["theirs_imported"] = types.ModuleType("theirs_imported")
beside = sys.modules[f"{__package__}.theirs_beside"] = types.ModuleType("theirs_beside")
theirs.given = imported.level = beside.level = 1.0
os.environ["LEVEL_OF_THEIRS"] = "1"


def elsewhere():
    """What is read of modules that are imported here, of the process, and by way of an argument."""
    import theirs_imported

    from .theirs_beside import level  # type: ignore[import-not-found]

    ambient = float(os.environ["LEVEL_OF_THEIRS"])
    return theirs_imported.level * level * ambient * of_given(theirs)


def of_given(holder):
    return holder.given


class Kind(type):
    level = 1.0


class Kept(metaclass=Kind):
    pass


class Reading(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.slope = nn.Softplus()

    def forward(self, x):
        h = torch.sinh(self.body(x)) * elsewhere() * Kept.level
        return self.head(self.slope(h) * (2 if torch.are_deterministic_algorithms_enabled() else 1))


def deterministic(patch):
    torch.use_deterministic_algorithms(True)
    patch.callback = lambda: torch.use_deterministic_algorithms(False)


def doubled(holder, name):
    function = getattr(holder, name)

    def change(patch):
        patch.setattr(holder, name, lambda *args: 2 * function(*args))

    return change


CHANGES = {
    "a switch of PyTorch's": deterministic,
    "the environment": lambda patch: patch.setitem(os.environ, "LEVEL_OF_THEIRS", "2"),
    "a module that is imported": lambda patch: patch.setattr(imported, "level", 2.0),
    "a module beside, imported": lambda patch: patch.setattr(beside, "level", 2.0),
    "a module that is an argument": lambda patch: patch.setattr(theirs, "given", 2.0),
    "an attribute of a class of classes": lambda patch: patch.setattr(Kind, "level", 2.0),
    "a function of PyTorch's": doubled(torch, "sinh"),
    "a function of its layers": doubled(F, "softplus"),
}


@pytest.fixture
def patch(monkeypatch):
    monkeypatch.callback = lambda: None
    yield monkeypatch
    monkeypatch.callback()


def kept(scorer):
    """The engine that the next call may use."""
    last = scorer._calls._last
    return last.kept and last.kept.engine


@pytest.mark.slow
def test_calls_are_replayed():
    scorer = GradNormScorer(Reading().double())
    first = scorer.score_batch(X)
    for _ in range(8):
        assert torch.equal(scorer.score_batch(X), first)
    assert replayed() >= 2


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_stands_elsewhere_makes_another_engine(monkeypatch, patch, change):
    monkeypatch.setattr(traces, "_BEEN", 99)  # which takes less time than to trace
    model = Reading().double()
    scorer = GradNormScorer(model, scheme="entropy")
    for _ in range(2):
        scorer.score_batch(X)
    before = kept(scorer)
    scorer.score_batch(X)
    assert before is not None and kept(scorer) is before
    change(patch)
    want = naive_score_pool(model, [X], scheme="entropy")
    for _ in range(2):
        assert_close_relative(scorer.score_batch(X), want, 1e-10)
    assert kept(scorer) is not before


def first_line(path):
    with open(path) as file:
        return file.readline()


@pytest.mark.parametrize("read", [
    lambda path: path.read_text(), first_line, lambda path: [first_line(p) for p in [path]].pop(),
    lambda path: eval("theirs.given"), lambda path: globals()["theirs"].given,
    lambda path: os.getenv("LEVEL_OF_THEIRS"), lambda path: len(os.getcwd()) > 0,
    lambda path: __import__("theirs_imported").level,
])  # fmt: skip
def test_a_model_that_reads_the_process_is_read_each_time(tmp_path, read):
    path = tmp_path / "level"
    path.write_text("1")
    model = Reading().double()
    scorer = GradNormScorer(model, forward=lambda model, x: model(x) * float(read(path)))
    for _ in range(3):
        scorer.score_batch(X)
    assert kept(scorer) is None


@pytest.mark.slow
def test_a_method_of_such_a_name_is_none_of_that():
    model = Reading().double()
    model.teacher = nn.Linear(4, 4).double().requires_grad_(False)
    scorer = GradNormScorer(model, forward=lambda model, x: model(model.teacher.eval()(x)))
    for _ in range(3):
        scorer.score_batch(X)
    assert kept(scorer) is not None


features, losses = torch.zeros(1), [0.0]  # of the caller's script, called as attributes are


class Named(nn.Module):
    """Its attributes are called as names of its file are, which it does not read."""

    def __init__(self):
        super().__init__()
        self.features, self.head, self.losses = nn.Linear(4, 6), nn.Linear(6, 3), 1.0

    def forward(self, x):
        return self.head(self.features(x)) * self.losses


def test_a_name_that_is_only_called_as_an_attribute_is_makes_no_other_engine(monkeypatch):
    monkeypatch.setattr(traces, "_BEEN", 99)
    scorer = GradNormScorer(Named().double())
    for _ in range(2):
        scorer.score_batch(X)
    before = scorer._calls._last.kept.engine
    for _ in range(2):
        losses.append(float(scorer.score_batch(X).mean()))
        monkeypatch.setitem(globals(), "features", torch.randn(3))
        assert scorer._calls._last.kept.engine is before
