"""Scorers in several threads at once: the process is afterwards as it was before them."""

import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils import checkpoint

from fastgradnorm import GradNormScorer, gradient_sketch, naive_score_pool, score_pool
from fastgradnorm._process.states import autograd_ready
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb

SECONDS = 30
pytestmark = pytest.mark.filterwarnings("ignore:.torch.utils.checkpoint. runs .Linear.")


def process():
    return {
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "reentrant": checkpoint.CheckpointFunction,
        "others": checkpoint._checkpoint_without_reentrant_generator,
        "caches": parametrize._cache_enabled,
    }


class Waiting(nn.Module):
    """Waits in its first forward pass until it is let go on."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.events = [threading.Event(), threading.Event()]

    def forward(self, x):
        begun, may_go_on = self.events
        begun.set()
        assert may_go_on.wait(SECONDS)
        return self.head(torch.tanh(checkpoint.checkpoint(self.body, x, use_reentrant=True)))


class Job(threading.Thread):
    """Scores with a waiting model; its model's first pass has begun when this returns."""

    def __init__(self, score, model=None):
        super().__init__(daemon=True)
        self.score, self.model, self.result = score, model or perturb(Waiting()), None
        self.start()
        assert self.model.events[0].wait(SECONDS)

    def run(self):
        try:
            self.result = self.score(self.model)
        except Exception as error:
            self.result = error

    def finish(self):
        self.model.events[1].set()
        self.join(SECONDS)
        assert not self.is_alive()
        return self.result


X = torch.randn(4, 4, generator=torch.Generator().manual_seed(5))
SCORERS = {
    "pool": lambda model: score_pool(model, [X], progress=False),
    "batch": lambda model: GradNormScorer(model).score_batch(X),
    "stream": lambda model: torch.cat([*GradNormScorer(model, progress=False).stream(X.split(2))]),
    "naive": lambda model: naive_score_pool(model, [X]),
    "sketch": lambda model: gradient_sketch(model, [X], dim=4, progress=False),
    "explain": lambda model: GradNormScorer(model, progress=False).explain(X),
}


@pytest.mark.slow
@pytest.mark.parametrize("first", SCORERS)
@pytest.mark.parametrize("second", ["pool", "naive"])
def test_the_first_ends_first(first, second):
    """Each used to put back what it had found, which was the other's."""
    before = process()
    one, two = Job(SCORERS[first]), Job(SCORERS[second])
    found = one.finish()
    assert process() != before  # the other one is still at work
    assert not isinstance(found, Exception)
    scores = two.finish()
    assert process() == before
    layers = {"body": two.model.body, "head": two.model.head}
    plain = Custom(lambda m, x: m.head(torch.tanh(m.body(x))), **layers)
    assert_close_relative(scores, oracle.scores(plain, oracle.ones(X)), 1e-5)


def test_the_second_ends_first():
    before = process()
    one, two = Job(SCORERS["pool"]), Job(SCORERS["pool"])
    two.finish()
    assert process() != before
    one.finish()
    assert process() == before


def test_an_exception_in_one_of_them():
    before = process()
    failing = perturb(Waiting())
    failing.head = nn.Linear(5, 3)
    one, two = Job(SCORERS["pool"], failing), Job(SCORERS["pool"])
    assert isinstance(one.finish(), ValueError)
    assert process() != before
    assert isinstance(two.finish(), torch.Tensor)
    assert process() == before


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_three_of_them(order):
    before = process()
    jobs = [Job(SCORERS["pool"]) for _ in order]
    for i in order:
        assert process() != before
        jobs[i].finish()
    assert process() == before


@pytest.mark.slow
def test_a_scorer_within_a_scorer():
    """In its loader, and in blocks of the engine's own."""
    before, model = process(), nn.Sequential(linear(4, 4), nn.Tanh(), linear(4, 3))

    def batches():
        for x in X.split(2):
            score_pool(model, [x], progress=False)
            yield x

    scores = score_pool(model, batches(), progress=False)
    assert_close_relative(scores, oracle.scores(model, oracle.ones(X)), 1e-5)
    assert process() == before
    with autograd_ready():
        within = process()
        with autograd_ready():
            assert process() == within
        assert process() == within != before
    assert process() == before


def test_what_another_changes_meanwhile_stays_changed():
    before = process()
    one = Job(SCORERS["pool"])
    try:
        checkpoint.CheckpointFunction = other = type("Other", (before["reentrant"],), {})
        one.model.events[1].set()
        one.finish()
        assert process() == before | {"reentrant": other}
    finally:
        checkpoint.CheckpointFunction = before["reentrant"]


@pytest.mark.slow
@pytest.mark.parametrize("enabled", [True, False])
def test_the_callers_own_choice_comes_back(enabled):
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        with parametrize.cached():
            one, two = Job(SCORERS["pool"]), Job(SCORERS["pool"])
            one.finish()
            two.finish()
            assert torch.backends.mha.get_fastpath_enabled() is enabled
            assert parametrize._cache_enabled == 1
        assert parametrize._cache_enabled == 0
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
