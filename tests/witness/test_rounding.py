"""Verification at kinks, where rounding decides which of two gradients counts."""

from dataclasses import replace

import pytest
import torch
from fastgradnorm_kernels import _matmul
from torch import nn

from fastgradnorm import GradNormScorer, KernelError, VerificationError, score_pool
from fastgradnorm._engine.outcome import Norms
from fastgradnorm._engine.passes import Passes
from fastgradnorm._engine.tapped import TappedPass
from fastgradnorm._witness import probe
from fastgradnorm._witness.own_call import OwnModel


@pytest.fixture
def at_a_kink(monkeypatch):
    """Inputs whose every activation before the ReLU is zero but for rounding.

    The linear layer is large enough for the engine to have a library of its own for it, but where
    the processor is one that PyTorch's own is as fast on.
    """
    monkeypatch.setattr(_matmul, "has_fast_mkl", lambda: False)
    model = nn.Sequential(nn.Linear(1200, 1100), nn.ReLU(), nn.Linear(1100, 3)).eval()
    inputs = torch.randn(1, 1200).expand(2, -1).clone()
    with torch.no_grad():
        exact = inputs[0].double() @ model[0].weight.double().T
        model[0].bias.copy_(-exact)
    return model, inputs


@pytest.mark.slow
@pytest.mark.parametrize("mode", [True, "sampled", "first", "all"])
def test_rounding_at_a_kink_is_no_disagreement(at_a_kink, mode):
    model, inputs = at_a_kink
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = GradNormScorer(model, verify=mode, progress=False).score([inputs])
    assert scores.values.isfinite().all()
    assert scores.provenance["verified"]["in_float64"] > 0  # else the test does not reach it
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.slow
def test_what_is_wrong_in_float64_too_stays_wrong(at_a_kink, monkeypatch):
    model, inputs = at_a_kink
    exact = TappedPass.pull
    monkeypatch.setattr(TappedPass, "pull", lambda run, given: 1.1 * exact(run, given))
    with pytest.raises(VerificationError, match="disagrees with plain autograd on sample 0"):
        score_pool(model, [inputs], progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("error", [2e-4, 2e-3, 0.05, 3.0])
def test_what_is_wrong_in_float32_alone_is_not_excused_unless_rounding_can_do_it(
    monkeypatch, error
):
    """Far from a kink: float64 is right, and the plain gradient does not move."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    exact = TappedPass.pull

    def pull(run, given):
        found = exact(run, given)
        return found if run.logits.dtype == torch.float64 else found * (1 + error)

    monkeypatch.setattr(TappedPass, "pull", pull)
    if error < 5e-3:  # as far as rounding goes in deep models: float64 decides
        assert score_pool(model, [torch.randn(4, 6)], progress=False).isfinite().all()
        return
    with pytest.raises(VerificationError, match="the gradient of `"):
        score_pool(model, [torch.randn(4, 6)], progress=False)


@pytest.mark.slow
def test_a_gradient_that_is_missing_is_never_excused(at_a_kink, monkeypatch):
    model, inputs = at_a_kink
    exact = TappedPass.pull

    def pull(run, given):
        found = exact(run, given)
        return found if run.logits.dtype == torch.float64 else found * torch.tensor([0, 1, 1, 1])

    monkeypatch.setattr(TappedPass, "pull", pull)
    with pytest.raises(VerificationError, match="the engine computed 0"):
        score_pool(model, [inputs], progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1, 3])  # what the unit gives is zero itself
def test_nor_where_rounding_moves_it_by_as_much(monkeypatch, lost):
    """One unit, which rounding can turn on and off: all of the first layer's gradient is moved."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 1), nn.ReLU(), nn.Linear(1, 3)).eval()
    x = torch.randn(1, 40).expand(2, -1).clone()
    with torch.no_grad():
        model[0].weight.abs_().mul_(8)
        x.abs_()
        model[0].bias.copy_(-(x[0].double() @ model[0].weight[0].double()) + 2e-6)
    exact = TappedPass.pull

    def pull(run, given):
        found = exact(run, given)
        kept = torch.tensor([place != lost for place in range(4)])
        return found if run.logits.dtype == torch.float64 else found * kept

    monkeypatch.setattr(TappedPass, "pull", pull)
    with pytest.raises(VerificationError, match="the engine computed 0"):
        score_pool(model, [x], progress=False)


@pytest.mark.slow
def test_a_model_that_does_not_run_in_float64_is_not_excused(at_a_kink):
    model, inputs = at_a_kink

    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            assert x.dtype == torch.float32
            return self.inner(x)

    with pytest.raises(VerificationError, match="disagrees"):
        score_pool(Single(), [inputs], progress=False)


def failing(*_, **__):
    raise KernelError("a kernel that failed", "a norm")


@pytest.mark.parametrize("place", ["logits", "gradients"])
def test_an_error_of_a_kernel_in_the_second_look_is_no_disagreement(at_a_kink, monkeypatch, place):
    """It surfaces as what it is."""
    model, inputs = at_a_kink
    run, make, double = Passes.run, Norms.make, torch.float64

    def in_single(passes, *args):
        return failing() if passes.subject.dtype == double else run(passes, *args)

    def moved(norms, *args):
        scored = make(norms, *args)
        return replace(scored, logits=scored.logits * 1.01) if place == "logits" else scored

    monkeypatch.setattr(Passes, "run", in_single)
    monkeypatch.setattr(Norms, "make", moved)
    with pytest.raises(KernelError, match="a kernel that failed"):
        score_pool(model, [inputs], progress=False)


@pytest.mark.parametrize("looked", ["own call", "first batch"])
def test_errors_of_kernels_are_not_taken_for_the_models(monkeypatch, looked):
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    batches = torch.randn(6, 6).split(1)
    if looked == "own call":
        monkeypatch.setattr(OwnModel, "logits", failing)
    else:
        monkeypatch.setattr(probe, "rows", failing)
    with pytest.raises(KernelError, match="a kernel that failed"):
        score_pool(model, batches, progress=False)
