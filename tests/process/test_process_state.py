"""Whatever is called, however it ends: the process is as it was, its random numbers included."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastgradnorm import GradNormScorer, gradient_sketch, naive_score_pool, score_pool
from fastgradnorm._process import states
from tests.support.cases import MLP
from tests.support.process_state import changed, process_state

X = torch.arange(60.0).view(6, 10).sin()


def streamed(model, batches):
    return list(GradNormScorer(model, progress=False).stream(batches))


CALLS = {
    "score_pool": lambda model, batches: score_pool(model, batches, progress=False),
    "rtol": lambda model, batches: score_pool(model, batches, rtol=0.1, progress=False),
    "stream": streamed,
    "score_batch": lambda model, batches: GradNormScorer(model).score_batch(X),
    "explain": lambda model, batches: GradNormScorer(model).explain(X),
    "sketch": lambda model, batches: gradient_sketch(model, batches, 8, progress=False),
    "naive": naive_score_pool,
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


class Noisy(MLP):
    """Draws of every generator, and uses none of the numbers."""

    def forward(self, x):
        torch.rand(1), np.random.rand(), random.random()
        return super().forward(x)


class Breaking(MLP):
    def forward(self, x):
        raise OSError("out of luck")


def drawing():
    """A loader that draws of every generator."""
    for batch in X.split(3):
        torch.rand(1), np.random.rand(), random.random()
        yield batch


def draws():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), [random.random() for _ in range(2)]


@calls
@pytest.mark.parametrize("fast", [True, False])
def test_switches_are_as_they_were(call, fast):
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        before = process_state()
        call(MLP(), X.split(3))
        assert not changed(before)
        with pytest.raises((ValueError, OSError)):
            call(Breaking(), X.split(3))
        assert not changed(before)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.filterwarnings("ignore::fastgradnorm.SlowPathWarning")
@calls
@pytest.mark.parametrize("model, loader", [(MLP, drawing), (Noisy, lambda: X.split(3))])
def test_random_numbers_of_loaders_and_models_are_their_own(call, model, loader):
    scored = model()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = draws()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    call(scored, loader())
    assert draws() == expected


@calls
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_modes_are_as_they_were(call, mode):
    with mode():
        before = process_state()
        call(MLP(), X.split(3))
        assert not changed(before)


@pytest.mark.slow
@calls
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_another_default_dtype(call, dtype):
    """Neither is it changed, nor do scores depend on it."""
    model, before = MLP(), torch.get_default_dtype()
    expected = score_pool(model, X.split(3), progress=False)
    torch.set_default_dtype(dtype)
    try:
        state = process_state()
        call(model, X.split(3))
        assert not changed(state)
        actual = score_pool(model, X.split(3), progress=False)
        assert actual.dtype == torch.float32
        assert torch.allclose(actual, expected, rtol=1e-6)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("reentrant", [True, False])
def test_training_checkpoints_again(reentrant):
    """What a checkpointed block keeps is told by how often it runs: forward, and back."""
    runs = []

    def block(x):
        runs.append(1)
        return x.tanh()

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(10, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(checkpoint(block, self.inner(x), use_reentrant=reentrant))

    model = Checkpointed()
    score_pool(model, [X], progress=False)
    runs.clear()
    model(X).sum().backward()
    assert len(runs) == 2


def test_blocks_within_blocks_change_the_process_once():
    before = process_state()
    with states.autograd_ready():
        inside = process_state()
        with states.autograd_ready():
            pass
        assert not changed(inside)  # the first that ends does not put back what the other needs
        assert not torch.backends.mha.get_fastpath_enabled()
    assert not changed(before)


@pytest.mark.parametrize(
    "context",
    [
        lambda: torch.autograd.graph.save_on_cpu(),
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
    ],
)
def test_hooks_on_saved_tensors_around_a_call_are_told(context):
    """PyTorch's transforms refuse them; within a model they lead to the slow loop."""
    model, batch = nn.Linear(4, 3), torch.randn(2, 4)
    for call in (
        lambda: score_pool(model, [batch], progress=False),
        lambda: GradNormScorer(model).score_batch(batch),
    ):
        with context(), pytest.raises(RuntimeError, match=r"Leave contexts.*save_on_cpu"):
            call()
        assert len(call()) == 2
