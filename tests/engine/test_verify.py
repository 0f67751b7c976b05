"""Verification at kinks, where rounding decides which of two gradients counts."""

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, VerificationError, score_pool
from fastgradnorm._engine.verify import _agrees_in_double, _check
from fastgradnorm._model.batches import as_batch


@pytest.fixture
def at_a_kink():
    """Inputs whose every activation before the ReLU is zero but for rounding.

    The linear layer is large enough for the engine to have a library of its own for it.
    """
    model = nn.Sequential(nn.Linear(1200, 1100), nn.ReLU(), nn.Linear(1100, 3)).eval()
    inputs = torch.randn(1, 1200).expand(2, -1).clone()
    with torch.no_grad():
        exact = inputs[0].double() @ model[0].weight.double().T
        model[0].bias.copy_(-exact)
    return model, inputs


def test_rounding_at_a_kink_is_no_disagreement(at_a_kink):
    model, inputs = at_a_kink
    engine = GradNormScorer(model, progress=False)._engine()
    with pytest.raises(VerificationError):  # in float32 both are right, and differ
        _check(engine, as_batch(inputs, torch.device("cpu")))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert score_pool(model, [inputs], progress=False).isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_what_is_wrong_in_float64_too_stays_wrong(at_a_kink, monkeypatch):
    from fastgradnorm._engine import engine

    model, inputs = at_a_kink
    exact = engine.Engine.sq_norms
    monkeypatch.setattr(engine.Engine, "sq_norms", lambda *given: 1.1 * exact(*given))
    with pytest.raises(VerificationError, match="disagrees with plain autograd on sample 0"):
        score_pool(model, [inputs], progress=False)


def test_a_model_that_does_not_run_in_float64_is_not_excused(at_a_kink):
    model, inputs = at_a_kink

    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            assert x.dtype == torch.float32
            return self.inner(x)

    engine = GradNormScorer(Single(), progress=False)._engine()
    assert not _agrees_in_double(engine, as_batch(inputs, torch.device("cpu")))
