"""Copies of a module tree: what a model keeps is the copy's, and an old cache is none."""

from collections import OrderedDict, defaultdict, deque

import pytest
import torch
from torch import nn

from fastgradnorm import CoverageError, naive_score_pool, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def keeping(held, keep):
    """A model that keeps something in a container of its own each time it runs."""

    def forward(m, x):
        h = torch.tanh(m.body(x))
        keep(m.held, h)
        return m.head(h)

    model = perturb(Custom(forward, body=linear(4, 5), head=linear(5, 3)))
    model.held = held()
    return model


KEPT = {
    "list": (lambda: [1], lambda held, h: held.append(h)),
    "set": (lambda: {1}, lambda held, h: held.add(h.shape)),
    "deque": (lambda: deque([1, 2], maxlen=2), lambda held, h: held.append(h)),
    "dict": (lambda: {"a": 1}, lambda held, h: held.update(h=h)),
    "empty dict": (dict, lambda held, h: held.update(h=h)),
    "ordered": (lambda: OrderedDict(a=1), lambda held, h: held.update(h=h)),
    "default": (lambda: defaultdict(list, a=[1]), lambda held, h: held["b"].append(h)),
    "list in a dict": (lambda: {"a": [1]}, lambda held, h: held["a"].append(h)),
    "dict in a list": (lambda: [{"a": 1}], lambda held, h: held[0].update(h=h)),
    "set in a tuple": (lambda: ({1},), lambda held, h: held[0].add(h.shape)),
}


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("score", [score_pool, naive_score_pool])
@pytest.mark.parametrize("name", KEPT)
def test_what_a_model_keeps_is_gone_with_the_copy(name, score, verify):
    held, keep = KEPT[name]
    model = keeping(held, keep)
    score(model, X.split(4), verify=verify, progress=False)
    assert model.held == held()


def cached(held, get, put):
    """A model that makes a tensor of a parameter once, and keeps it with its graph."""

    def forward(m, x):
        if get(m.held) is None:
            put(m.held, m.gain.exp())
        return m.head(torch.tanh(m.body(x)) * get(m.held))

    torch.manual_seed(0)
    model = perturb(Custom(forward, body=linear(4, 5), head=linear(5, 3)))
    model.gain = nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(1)))
    model.held = held()
    return model


def _put(held, value):
    held["k"] = value


CACHES = {
    "dict": (dict, lambda held: held.get("k"), _put),
    "ordered": (OrderedDict, lambda held: held.get("k"), _put),
    "default": (lambda: defaultdict(lambda: None), lambda held: held["k"], _put),
    "dict in a dict": (
        lambda: {"a": {}}, lambda held: held["a"].get("k"), lambda held, v: _put(held["a"], v)
    ),
    "dict in a list": (
        lambda: [{}], lambda held: held[0].get("k"), lambda held, v: _put(held[0], v)
    ),
    "among others": (lambda: {"n": 3, "t": torch.ones(2)}, lambda held: held.get("k"), _put),
    "list": (list, lambda held: held[0] if held else None, lambda held, v: held.append(v)),
    "place in a list": (
        lambda: [None], lambda held: held[0], lambda held, v: held.__setitem__(0, v)
    ),
    "deque": (
        lambda: deque(maxlen=1), lambda held: held[0] if held else None,
        lambda held, v: held.append(v),
    ),
}  # fmt: skip


REFUSED = {"list", "place in a list", "deque"}


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("name", CACHES)
def test_a_cache_that_an_earlier_call_filled_is_no_constant(name, verify):
    """Exact, as if it had not been filled; where a place in it means something, it is named."""
    held = CACHES[name]
    expected = oracle.scores(cached(*held), oracle.ones(X))
    model = cached(*held)
    model(X)
    before = held[1](model.held)
    if name in REFUSED:
        with pytest.raises(CoverageError, match="gain"):
            score_pool(model, [X], verify=verify, progress=False)
    else:
        scores = score_pool(model, [X], verify=verify, progress=False)
        assert_close_relative(scores, expected, 1e-5)
    assert held[1](model.held) is before
