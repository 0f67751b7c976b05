"""Calls of `score_batch` that replay traces, as long as nothing is changed that the model reads."""

import functools
import gc
import threading
import types
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, naive_score_pool
from fastgradnorm._engine import traces
from tests.support.asserts import assert_close_relative
from tests.support.tracing import eager, replayed  # noqa: F401

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
FACTOR, OFFSET, TIMES, SETTINGS = 1.0, 0.0, 1.0, {"gain": [1.0]}
theirs = types.ModuleType("theirs")  # another file of the caller's
theirs.FACTOR = 1.0


def gained(x, by=1.0, *, plus=0.0):
    return x * FACTOR * theirs.FACTOR * SETTINGS["gain"][0] * by + plus


class Held:
    scale = 1.0


HELD = Held()  # which no function of the model's names


class Part:
    """No module."""

    slope = 1.0
    __slots__ = ("__hidden", "bias", "inner")

    def __init__(self):
        self.bias, self.inner, self.__hidden = 0.0, SimpleNamespace(scale=1.0), 1.0

    def hide(self, value):
        self.__hidden = value

    def __call__(self, x):
        return x * self.slope * self.inner.scale * self.__hidden + self.bias


class OtherPart(Part):
    __slots__ = ()
    slope = 2.0


class Deep(nn.Module):
    """What it reads lies deep, and elsewhere."""

    power = 1.0

    def __init__(self, held):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("large", torch.ones(1 << 18))  # 2 MiB
        self.config = SimpleNamespace(tied={"scale": [1.0]}, stop=False)
        self.part, self.bound = Part(), functools.partial(torch.clamp, min=-9.0)
        self.ends = {"low": 1.0, "high": 2.0}
        self.more, self.read, self.weak = [], [1.0].__getitem__, weakref.ref(held)
        factor = 1.0
        self.closed = lambda x: x * factor

        def close(value):
            nonlocal factor
            factor = value

        self.close = close

    def forward(self, x):
        x = (x - self.mean) * self.config.tied["scale"][0] * self.large[0]
        h = self.part(self.closed(self.layers[:2](x)))
        h = h.detach() if self.config.stop else h
        h = h * self.read(0) * self.weak().scale * self.times + self.offset(sum(self.more))
        return self.bound(self.scaled(gained(self.layers[2](h)))) * self.ends["low"]

    @property
    def times(self):
        return TIMES

    @staticmethod
    def offset(more):
        return OFFSET + more

    def scaled(self, z):
        return z * self.power


def hook_on_all(model, patch):
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: output * 2 if isinstance(module, nn.Tanh) else None
    )
    patch.callback = handle.remove


def trained(model):
    with torch.no_grad():
        model.layers[2].bias += 0.1


def other_names(model, patch):
    low, high = model.ends.values()
    model.ends.clear()
    model.ends.update(high=low, low=high)


def other_default(model, patch):
    torch.set_default_dtype(torch.float64)
    patch.callback = lambda: torch.set_default_dtype(torch.float32)


CHANGES = {
    "what an attribute of an attribute holds": lambda model, patch: model.config.tied[
        "scale"
    ].__setitem__(0, 2.0),
    "what a mapping holds": lambda model, patch: model.ends.update(low=3.0),
    "by what names a mapping holds it": other_names,
    "an attribute of an attribute": lambda model, patch: setattr(model.config, "stop", True),
    "a slot": lambda model, patch: setattr(model.part, "bias", 0.5),
    "a private slot": lambda model, patch: model.part.hide(2.0),
    "an attribute of a slot": lambda model, patch: setattr(model.part.inner, "scale", 2.0),
    "an attribute of a class": lambda model, patch: patch.setattr(Part, "slope", 2.0),
    "one of the model's class": lambda model, patch: patch.setattr(Deep, "power", 2.0),
    "a method": lambda model, patch: patch.setattr(Deep, "scaled", lambda self, z: 3 * z),
    "a function of the module": lambda model, patch: patch.setitem(
        Deep.forward.__globals__, "gained", lambda x: 2 * x
    ),
    "a number of the module": lambda model, patch: patch.setitem(
        Deep.forward.__globals__, "FACTOR", 2.0
    ),
    "what a mapping of the module holds": lambda model, patch: patch.setitem(
        SETTINGS, "gain", [2.0]
    ),
    "what a function closes over": lambda model, patch: model.close(2.0),
    "arguments kept": lambda model, patch: model.bound.keywords.update(min=0.0),
    "a hook on all modules": hook_on_all,
    "a default": lambda model, patch: patch.setattr(gained, "__defaults__", (2.0,)),
    "a keyword's default": lambda model, patch: patch.setattr(
        gained, "__kwdefaults__", {"plus": torch.arange(3.0)}
    ),
    "what a property reads": lambda model, patch: patch.setitem(
        Deep.forward.__globals__, "TIMES", 2.0
    ),
    "what a static method reads": lambda model, patch: patch.setitem(
        Deep.forward.__globals__, "OFFSET", 1.0
    ),
    "a name of another file": lambda model, patch: patch.setattr(theirs, "FACTOR", 2.0),
    "what is held weakly": lambda model, patch: patch.setattr(HELD, "scale", 2.0, raising=False),
    "a list whose method is held": lambda model, patch: model.read.__self__.__setitem__(0, 2.0),
    "a list that was empty": lambda model, patch: model.more.append(1.0),
    "another class": lambda model, patch: setattr(model.part, "__class__", OtherPart),
    "another class of a module": lambda model, patch: setattr(
        model.layers[1], "__class__", nn.Softsign
    ),
    "a parameter that is frozen": lambda model, patch: model.layers[0].weight.requires_grad_(False),
    "a parameter that is trained": lambda model, patch: trained(model),
    "a large buffer, past PyTorch's count": lambda model, patch: model.large.data.fill_(0.3),
    "PyTorch's own default": other_default,
}
PAST_COUNTS = {
    "a parameter": lambda model: model.layers[0].weight,
    "a buffer": lambda model: model.mean,
    "a large buffer": lambda model: model.large,
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Deep(HELD).double()


@pytest.fixture
def patch(monkeypatch):
    monkeypatch.callback = lambda: None
    yield monkeypatch
    monkeypatch.callback()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"params": "last_layer"}], ids=str)
def test_calls_are_replayed(model, options):
    scorer = GradNormScorer(model, **options)
    first = scorer.score_batch(X)
    for _ in range(5):
        assert torch.equal(scorer.score_batch(X), first)
    assert replayed() >= 2
    others = torch.randn(3, 4, dtype=torch.float64)
    found = scorer.score_batch(others)
    assert torch.equal(found, GradNormScorer(model, **options).score_batch(others))


def kept(scorer):
    """The engine that the next call may use."""
    last = scorer._calls._last
    return last.kept and last.kept.engine


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_the_model_reads_makes_another_engine(monkeypatch, model, patch, change):
    monkeypatch.setattr(traces, "_BEEN", 99)  # which takes less time than to trace
    scorer = GradNormScorer(model, scheme="entropy")
    for _ in range(2):
        scorer.score_batch(X)
    before = kept(scorer)
    scorer.score_batch(X)
    assert before is not None and kept(scorer) is before
    change(model, patch)
    want = naive_score_pool(model, [X], scheme="entropy")
    for _ in range(2):
        assert_close_relative(scorer.score_batch(X), want, 1e-10)
    assert kept(scorer) is not before


@pytest.mark.slow
@pytest.mark.parametrize("tensor", PAST_COUNTS.values(), ids=PAST_COUNTS)
def test_writes_that_pytorch_does_not_count_are_followed(model, tensor):
    scorer = GradNormScorer(model, scheme="entropy", verify=False)
    for _ in range(4):
        scorer.score_batch(X)
    assert replayed()
    tensor(model).data[:] = 0.3
    want = naive_score_pool(model, [X], scheme="entropy")
    assert_close_relative(scorer.score_batch(X), want, 1e-10)


@pytest.mark.slow
def test_so_is_what_forward_reads(model):
    scale, held = 1.0, {"shift": 0.0}
    scorer = GradNormScorer(model, forward=lambda model, x: model(x * scale + held["shift"]))
    for _ in range(4):
        scorer.score_batch(X)
    assert replayed()
    scale = 2.0
    assert_close_relative(scorer.score_batch(X), naive_score_pool(model, [2 * X]), 1e-10)
    held["shift"] = 1.0
    assert_close_relative(scorer.score_batch(X), naive_score_pool(model, [2 * X + 1]), 1e-10)


@pytest.mark.parametrize(
    "held", [torch.Generator(), iter([1]), threading.Lock()], ids=["generator", "iterator", "lock"]
)
def test_a_model_that_holds_what_cannot_be_looked_into_is_read_each_time(model, held):
    model.held = held
    scorer = GradNormScorer(model)
    for _ in range(3):
        scorer.score_batch(X)
    assert kept(scorer) is None


@pytest.mark.slow
def test_an_engine_that_was_short_of_memory_is_not_kept(monkeypatch, model):
    monkeypatch.setattr(traces, "_BEEN", 99)
    scorer = GradNormScorer(model)
    for _ in range(3):
        scorer.score_batch(X)
    before = kept(scorer)
    before.chunks.halved = True
    scorer.score_batch(X)
    assert before is not None and kept(scorer) is not before


@pytest.mark.slow
def test_a_model_that_is_trained_in_between_is_not_kept(model):
    scorer, x = GradNormScorer(model), X
    for _ in range(3):
        with torch.no_grad():
            model.layers[2].bias += 0.1
        assert_close_relative(scorer.score_batch(x), naive_score_pool(model, [x]), 1e-10)
        gone = weakref.ref(model.layers[0])
        model.layers[0] = nn.Linear(4, 6).double()
        gc.collect()
        assert gone() is None
