"""Scorers whose passes are traced the second time that they are run; and the same as they are."""

import pytest

from fastgradnorm import GradNormScorer
from fastgradnorm._engine import traces


class Kept(traces.Traces):
    """All that are made, so that tests can ask them."""

    made: list["Kept"]

    def __init__(self, blamed):
        super().__init__(blamed)
        self.made.append(self)


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Passes are traced the second time that they are run."""
    monkeypatch.setattr(traces, "_BEEN", 2)
    monkeypatch.setattr(traces, "_COMING", 0)
    monkeypatch.setattr(traces, "_LONGEST", float("inf"))
    monkeypatch.setattr(traces, "_LONG", float("inf"))
    monkeypatch.setattr(traces, "_SHORT", float("inf"))
    monkeypatch.setattr(traces, "_seconds", lambda traced, args: -1.0)
    monkeypatch.setattr("fastgradnorm._engine.passes.Traces", Kept)
    Kept.made = []


def replayed():
    """How many passes were replayed in this test."""
    return sum(each.replayed for each in Kept.made)


def scores(model, batches, **options):
    """What the scorer gives."""
    scorer = GradNormScorer(model, latency=0, progress=False, **{"verify": False, **options})
    found = scorer.score(batches)
    return {k: v.values for k, v in found.items()} if isinstance(found, dict) else found.values


def as_they_are(monkeypatch, model, batches, **options):
    """The same, without traces."""
    with monkeypatch.context() as patch:
        patch.setattr(traces, "_LONGEST", -1.0)
        return scores(model, batches, **options)
