"""Verification at kinks, where rounding decides which of two gradients counts."""

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, VerificationError, score_pool
from fastgradnorm._batches import as_batch
from fastgradnorm._verify import _agrees_in_double, _check


@pytest.fixture
def at_a_kink():
    """Even images whose every activation before the ReLU is zero but for rounding."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    ).eval()  # fmt: skip
    norm, images = model[1], torch.full((2, 1, 6, 6), 0.7)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.copy_(-model[:2](images)[0, :, 0, 0])
    return model, images


def test_rounding_at_a_kink_is_no_disagreement(at_a_kink):
    model, images = at_a_kink
    engine = GradNormScorer(model, progress=False)._engine()
    with pytest.raises(VerificationError):  # in float32 both are right, and differ
        _check(engine, as_batch(images, torch.device("cpu")))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert score_pool(model, [images], progress=False).isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_what_is_wrong_in_float64_too_stays_wrong(at_a_kink, monkeypatch):
    from fastgradnorm import _engine

    model, images = at_a_kink
    exact = _engine.Engine.sq_norms
    monkeypatch.setattr(_engine.Engine, "sq_norms", lambda *given: 1.1 * exact(*given))
    with pytest.raises(VerificationError, match="disagrees with plain autograd on sample 0"):
        score_pool(model, [images], progress=False)


def test_a_model_that_does_not_run_in_float64_is_not_excused(at_a_kink):
    model, images = at_a_kink

    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            assert x.dtype == torch.float32
            return self.inner(x)

    engine = GradNormScorer(Single(), progress=False)._engine()
    assert not _agrees_in_double(engine, as_batch(images, torch.device("cpu")))
