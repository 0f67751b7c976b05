"""What passes with a parameter that is used several times need in memory, and let go of."""

import gc
import weakref

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer
from fastgradnorm._engine import tapped
from fastgradnorm._engine.engine import Engine
from fastgradnorm._model.batches import as_batch
from fastgradnorm._model.subject import Subject
from fastgradnorm._options import Options


class _Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(30, 4), nn.Linear(4, 3)

    def forward(self, ids):
        logits = torch.tanh(self.words(ids)) @ self.words.weight.t()
        return self.head(torch.tanh(logits @ self.words.weight).mean(1))


def test_passes_let_go_of_what_they_saved(monkeypatch):
    """At once, and not when the garbage is collected, which a scorer puts off."""
    modes = []

    class Noted(tapped.Tapping):
        def __init__(self, *given):
            super().__init__(*given)
            modes.append(weakref.ref(self))

    monkeypatch.setattr(tapped, "Tapping", Noted)
    scorer = GradNormScorer(_Tied().eval(), verify=False, progress=False)
    gc.collect()
    gc.disable()
    try:
        scorer.score([torch.randint(30, (2, 5))] * 3)
        alive = sum(mode() is not None for mode in modes)
    finally:
        gc.enable()
    assert modes and not alive


@pytest.mark.parametrize("positions", [40, 400])
def test_what_joined_uses_need_is_planned(positions):
    """Long texts form the gradient, whatever their length; pairs of positions would be many."""
    options, batch = Options(), as_batch(torch.randint(30, (2, positions)), torch.device("cpu"))
    needed = Engine(Subject(_Tied().eval(), options), options).plan(batch).transient_bytes // 4
    gradient, sides = 30 * 4, positions * (2 * (30 + 4) + 4)
    assert 2 * sides + 3 * gradient <= needed <= 6 * sides + 3 * gradient
