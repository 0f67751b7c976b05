"""Threads that would trace at the same time: one does, and PyTorch's modules are as they were."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer
from fastgradnorm._engine import traced, traces
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


def in_thread(run):
    """What it gives in a thread that ends."""
    found = []
    thread = threading.Thread(target=lambda: found.append(run()), daemon=True)
    thread.start()
    thread.join(SECONDS)
    return found[0]


anywhere = pytest.mark.skipif(
    not in_thread(traced.is_safe_here), reason="this PyTorch traces in the main thread alone"
)


@anywhere
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


@anywhere
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


@pytest.mark.parametrize("release", ["2.11.0+cu130", "2.12.1", "2.13.0+cu130", "2.15.0"])
@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("gpu", [True, False])
def test_threads_trace_where_that_leaves_nothing_behind(monkeypatch, release, built, gpu):
    cuda = SimpleNamespace(is_built=lambda: built, is_available=lambda: built and gpu)
    fake = SimpleNamespace(__version__=release, cuda=cuda, backends=SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(traced, "torch", fake)
    old = release < "2.13"
    assert in_thread(traced.is_safe_here) is not (old and built and not gpu)
    assert traced.is_safe_here()


@pytest.mark.parametrize("way", WAYS)
def test_a_thread_that_may_not_trace_scores_all_the_same(monkeypatch, way):
    main, model = threading.current_thread(), network()
    monkeypatch.setattr(traces, "is_safe_here", lambda: threading.current_thread() is main)
    found = in_thread(lambda: WAYS[way](model))
    assert Kept.made and not any(kept.traced for kept in Kept.made)
    wanted = oracle.scores(model, oracle.ones(torch.cat(PARTS)), "expected")
    assert_close_relative(found, wanted, 1e-5)
    assert any("main thread" in str(kept.told()["reason"]) for kept in Kept.made)
    assert torch.equal(WAYS[way](model), found)
    assert any(kept.traced for kept in Kept.made)


PROCESS = """
import threading, torch
from torch import nn
from fastgradnorm import GradNormScorer

def work(x):
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    scorer = GradNormScorer(model, progress=False, verify=False)
    for _ in range(40):
        scorer.score_batch(x)

for _ in range(3):
    thread = threading.Thread(target=work, args=(torch.randn(4, 4),))
    thread.start()
    thread.join()
work(torch.randn(4, 4))
print("all is well")
"""


def test_threads_that_score_one_after_another():
    """PyTorch 2.11 ended the process where a thread traced after another one had ended."""
    done = subprocess.run([sys.executable, "-c", PROCESS], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "all is well\n", done.stderr
