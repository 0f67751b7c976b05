"""Passes that take long are traced once, also where the samples turn out to be special."""

import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer
from fastgradnorm._engine import traces
from fastgradnorm._engine.traced import Traced


@pytest.mark.slow
def test_a_long_pass_of_special_samples_is_traced_once_a_short_one_nine_times(monkeypatch):
    made = []

    class Special(Traced):
        def __init__(self, *args):
            made.append(self)
            super().__init__(*args)

        def __call__(self, args):
            return super().__call__(args)[0], torch.tensor(False)

    monkeypatch.setattr(traces, "Traced", Special)
    monkeypatch.setattr(traces, "_BEEN", 0)
    model, batches = nn.Linear(4, 3).eval(), torch.randn(240, 4).split(4)
    counts = []
    for seconds in (0.2, 0.01):
        clock = iter(i * seconds for i in range(10**6))
        clocks = SimpleNamespace(
            perf_counter=lambda clock=clock: next(clock), thread_time=time.thread_time
        )
        monkeypatch.setattr(traces, "time", clocks)
        made.clear()
        scorer = GradNormScorer(model, latency=0, progress=False, verify=False)
        replays = scorer.score(batches).provenance["replays"]
        counts.append(len(made))
        assert replays["replayed"] == 0
        assert "cancel, or batches branch otherwise" in replays["reason"]
    assert counts == [counts[0], 9 * counts[0]] and counts[0]
