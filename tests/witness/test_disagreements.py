"""What makes gradients differ from call to call, where logits do not, is told by name."""

import functools
import warnings

import pytest
import torch
from torch import nn

from fastgradnorm import (
    BatchDependenceWarning,
    GradNormScorer,
    UnsupportedModelError,
    VerificationError,
    gradient_dots,
    gradient_sketch,
    mean_gradient,
    naive_score_pool,
    score_pool,
)
from fastgradnorm._witness import gradients
from fastgradnorm._witness.pulled import Gradients
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

pytestmark = pytest.mark.filterwarnings("ignore::fastgradnorm.SlowPathWarning")
X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) + torch.tensor([-1, 1, -1, 1])


def centred(m, h):
    centre = h.mean(0, keepdim=True)
    return h + 5 * (centre - centre.detach())


def first_alone(m, h):
    return torch.where(torch.arange(len(h))[:, None] == 0, h, h.detach())


def summed_by_hook(m, h):
    if h.requires_grad:
        h.register_hook(lambda g: g + g.sum(0))
    return h


class Mean(nn.Module):
    def forward(self, h):
        return centred(self, h)


MIXING = {
    "mean": centred,
    "detached": first_alone,
    "hook": summed_by_hook,
    "in a layer": lambda m, h: m.mix(h),
}


def made(middle, **parts):
    torch.manual_seed(0)
    forward = lambda m, x: m.head(middle(m, m.body(x)).tanh())  # noqa: E731
    return Custom(forward, body=linear(4, 5), head=linear(5, 3), mix=Mean(), **parts).eval()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"verify": "all", "scheme": "entropy"}], ids=str)
@pytest.mark.parametrize("middle", MIXING)
def test_gradients_that_mix_samples_are_refused_by_name(middle, options):
    with pytest.raises(UnsupportedModelError) as told:
        score_pool(made(MIXING[middle]), [X], progress=False, **options)
    for part in ["`model.body` (Linear)", "another gradient", "logits are the same", "detach"]:
        assert part in str(told.value)
    assert "report" not in str(told.value)


@pytest.mark.slow
def test_hooks_by_a_value_of_the_batch_are_told_and_scored_as_of_samples_alone():
    model = made(lambda m, h: h)
    plain = model.function

    def forward(m, x):
        z = plain(m, x)
        if z.requires_grad and x.sum() > 0:
            z.register_hook(lambda g: 3 * g)
        return z

    model.function = forward
    x = torch.tensor([[1.0], [-0.1], [-0.1], [1.0]]) * (1 + torch.rand(4, 4))
    with pytest.warns(BatchDependenceWarning, match="`model.*reads values of its batch"):
        scores = score_pool(model, [x], verify="all", progress=False)
    assert_close_relative(scores, oracle.scores(model, oracle.ones(x)), 1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", BatchDependenceWarning)  # of samples that have no company
        score_pool(model, x.split(1), progress=False)


@functools.cache
def of_module(module):
    return module.body.weight.mean()


@functools.cache
def of_layer(layer):
    return 1 + 9 * layer.weight.square().mean()


_KEPT = {}


def in_a_global(m):
    if m not in _KEPT:
        _KEPT[m] = m.body.weight.sum(1)
    return _KEPT[m]


UNCACHED = {
    "module": lambda m, h: h * m.body.weight.mean(),
    "layer": lambda m, h: h * (1 + 9 * m.body.weight.square().mean()),
    "global": lambda m, h: h * m.body.weight.sum(1),
}
CACHES = {
    "module": lambda m, h: h * of_module(m),
    "layer": lambda m, h: h * of_layer(m.body),
    "global": lambda m, h: h * in_a_global(m),
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("cache", CACHES)
def test_what_is_kept_outside_of_the_model_is_told(cache, size):
    with pytest.raises(UnsupportedModelError, match=r"`model` has other .*lru_cache.*Keep it in"):
        score_pool(made(CACHES[cache]), X.split(size), progress=False)
    fresh = made(CACHES[cache])
    scores = GradNormScorer(fresh, verify=False, progress=False).score([X]).values
    assert_close_relative(scores, oracle.scores(made(CACHES[cache]), oracle.ones(X)), 1e-5)
    assert_close_relative(scores, naive_score_pool(made(CACHES[cache]), [X]), 1e-5)


def direction(model):
    return {name: 1 + p.detach() for name, p in model.named_parameters()}


WAYS = {
    "products": lambda m, pool, **more: gradient_dots(m, pool, [direction(m)] * 2, **more),
    "one product": lambda m, pool, **more: gradient_dots(m, pool, direction(m), **more),
    "cosines": lambda m, pool, **more: gradient_dots(m, pool, direction(m), cosine=True, **more),
    "means": mean_gradient,
    "sketches": lambda m, pool, **more: gradient_sketch(m, pool, 8, **more),
    "norms": lambda m, pool, **more: gradient_sketch(m, pool, 8, norms=True, **more)[1],
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cache", CACHES)
def test_gradients_themselves_tell_it_too(cache, way, size):
    options = {"loss": None, "scheme": "entropy", "progress": False}
    model = made(CACHES[cache])
    with torch.no_grad():  # as to predict: what is kept has no gradient
        model(X)
    with pytest.raises(UnsupportedModelError, match=r"`model` has other .*lru_cache.*Keep it in"):
        WAYS[way](model, X.split(size), **options)
    found = WAYS[way](made(CACHES[cache]), X.split(size), verify=False, **options)
    plain = made(lambda m, h: UNCACHED[cache](m, h))
    exact = WAYS[way](plain, X.split(size), **options)
    for a, b in zip(*map(torch.utils._pytree.tree_leaves, (found, exact)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_gradient_is_the_engines(way, monkeypatch):
    """Where nothing is kept, and where something is that is not the cause."""
    right = Gradients.gradients
    wrong = lambda *args: [2 * g for g in right(*args)]  # noqa: E731
    monkeypatch.setattr(Gradients, "gradients", wrong)
    for middle in (lambda m, h: h, CACHES["layer"]):
        with pytest.raises(VerificationError, match="report"):
            WAYS[way](made(middle), [X], loss=None, scheme="entropy", progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("middle", [lambda m, h: h, lambda m, h: h * of_layer(m.body)])
def test_a_fault_of_the_engine_is_still_one(middle, monkeypatch):
    norms = gradients.Comparison._norms
    monkeypatch.setattr(gradients.Comparison, "_norms", lambda self, c: 2 * norms(self, c))
    with pytest.raises(VerificationError, match="report"):
        score_pool(made(middle), [X], progress=False)
