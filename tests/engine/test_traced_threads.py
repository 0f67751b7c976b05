"""Threads that would trace at the same time: one does, and PyTorch's modules are as they were."""

import threading

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer
from fastgradnorm._engine import traces
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import linear
from tests.support.tracing import Kept, eager  # noqa: F401

SECONDS = 30
pytestmark = pytest.mark.slow
PARTS = torch.randn(24, 4, generator=torch.Generator().manual_seed(3)).split(4)


def methods():
    """Which PyTorch replaces while it traces."""
    return nn.Module.__call__, nn.Module.__getattr__


METHODS = methods()


def network():
    return nn.Sequential(linear(4, 5), nn.Tanh(), linear(5, 3))


def batches(model, **options):
    scorer = GradNormScorer(model, progress=False, **options)
    return torch.cat([scorer.score_batch(part) for part in PARTS])


def pool(model, **options):
    return GradNormScorer(model, progress=False, latency=0, **options).score(PARTS).values


def stream(model, **options):
    scorer = GradNormScorer(model, progress=False, latency=0, **options)
    return torch.cat([*scorer.stream(PARTS)])


WAYS = {"batches": batches, "pool": pool, "stream": stream}


class Waiting(threading.Thread):
    """Scores, and waits in what it traces first, if anything, until it is let go on."""

    def __init__(self, monkeypatch, score, model, **options):
        super().__init__(daemon=True)
        self.score, self.model, self.options, self.found = score, model, options, None
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        made = traces.Traced

        def traced(run, args):
            if threading.current_thread() is not self or self.begun.is_set():
                return made(run, args)
            return made(lambda *given: self.wait() or run(*given), args)

        monkeypatch.setattr(traces, "Traced", traced)
        self.start()
        assert self.begun.wait(SECONDS)

    def wait(self):
        self.begun.set()
        assert self.may_go_on.wait(SECONDS)

    def run(self):
        try:
            self.found = self.score(self.model, **self.options)
        except BaseException as error:
            self.found = error
        finally:
            self.begun.set()

    def finish(self):
        self.may_go_on.set()
        self.join(SECONDS)
        assert not self.is_alive()
        return self.found


@pytest.mark.parametrize("scheme", ["expected", "entropy"])
@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("second", WAYS)
def test_a_second_one_goes_on_without(monkeypatch, first, second, scheme):
    """It failed, or left the modules' methods replaced for good."""
    models = network(), network()
    one = Waiting(monkeypatch, WAYS[first], models[0], scheme=scheme)
    try:
        assert methods() != METHODS
        two = Waiting(monkeypatch, WAYS[second], models[1], scheme=scheme)
    finally:
        found = [one.finish()]
    found.append(two.finish())
    assert methods() == METHODS
    for model, scores in zip(models, found, strict=True):
        assert isinstance(scores, torch.Tensor), scores
        wanted = oracle.scores(model, oracle.ones(torch.cat(PARTS)), scheme)
        assert_close_relative(scores, wanted, 1e-5)


def test_it_traces_later(monkeypatch):
    waiting = Waiting(monkeypatch, pool, network())
    stream = GradNormScorer(network(), progress=False, latency=0).stream(PARTS * 2)
    try:
        early = [next(stream) for _ in PARTS]
        (kept,) = Kept.made[1:]
        assert not kept.traced
    finally:
        waiting.finish()
    late = [*stream]
    assert kept.traced and kept.replayed
    assert all(map(torch.equal, early, late))


def test_where_one_fails_the_next_traces(monkeypatch):
    def failing(*args):
        raise KeyError("of the engine's own")

    with monkeypatch.context() as patch:
        patch.setattr(traces, "Traced", failing)
        with pytest.raises(KeyError):
            pool(network())
    scorer = GradNormScorer(network(), progress=False, latency=0)
    assert scorer.score(PARTS).provenance["replays"]["replayed"]
