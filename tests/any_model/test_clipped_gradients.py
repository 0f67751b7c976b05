"""Backward passes that do not grow with what is pulled back: clipped by a function or a hook."""

import warnings

import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional as F

from fastgradnorm import (
    SlowPathWarning,
    gradient_sketch,
    mean_gradient,
    score_pool,
)
from tests.support import oracle, sketched
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear


class Clip(Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g.clamp(-0.01, 0.01)


class Reverse(Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return -0.3 * torch.where(g.isnan(), 0.0, g)


def hooked(change, place="body"):
    def forward(m, x):
        hidden = m.body(x)
        logits = m.head(hidden.tanh())
        put = {"body": hidden, "head": logits}[place]
        if put.requires_grad:
            put.register_hook(change)
        return logits

    return forward


def by_node(m, x):
    hidden = m.body(x)
    if hidden.grad_fn is not None:
        hidden.grad_fn.register_prehook(lambda g: (g[0].clamp(-0.01, 0.01),))
    return m.head(hidden.tanh())


def of_some(m, x):
    hidden = m.body(x)
    if hidden.requires_grad and x.sum() > 0:
        hidden.register_hook(lambda g: g.clamp(-0.01, 0.01))
    return m.head(hidden.tanh())


def of_others(m, x):
    hidden = m.body(x)
    if x.sum() < 0 and torch.is_grad_enabled():  # where nobody asks whether it has a gradient
        hidden.register_hook(lambda g: g.clamp(-0.01, 0.01))
    return m.head(hidden.tanh())


def of_some_nodes(m, x):
    hidden = m.body(x)
    if x.sum() < 0 and hidden.grad_fn is not None:
        hidden.grad_fn.register_prehook(lambda g: (g[0].clamp(-0.01, 0.01),))
    return m.head(hidden.tanh())


def of_modules_for_some(m, x):
    hidden, handle = m.body(x), None
    if x.sum() < 0:
        handle = m.tanh.register_full_backward_hook(lambda _, g, out: (3 * g[0],))
    logits = m.head(m.tanh(hidden))
    if handle is not None:
        handle.remove()
    return logits


def of_some_and_written(m, x):
    hidden = m.body(x)
    if x.sum() > 0:
        hidden, made = torch.zeros(len(x), 5, dtype=x.dtype), hidden
        hidden[:] = made  # which vmap cannot write, but into what it has spread
        if hidden.requires_grad:
            hidden.register_hook(lambda g: g.clamp(-0.01, 0.01))
    return m.head(hidden.tanh())


def of_a_made_weight(m, x):
    weight = 2 * m.head.weight
    if x.sum() < 0 and weight.requires_grad:
        weight.register_hook(lambda g: g.clamp(-0.01, 0.01))
    return F.linear(m.body(x).tanh(), weight, m.head.bias)


CLIPPED = {
    "function": lambda m, x: m.head(Clip.apply(m.body(x)).tanh()),
    "hook": hooked(lambda g: g.clamp(-0.01, 0.01)),
    "one side": hooked(lambda g: g.clamp_min(0)),
    "normalised": hooked(lambda g: g / g.norm()),
    "at the logits": hooked(lambda g: g.clamp(-0.01, 0.01), "head"),
    "hook of a node": by_node,
    "of some samples": of_some,
    "of others": of_others,
    "nodes of some": of_some_nodes,
    "modules, for some": of_modules_for_some,
    "a made weight, for some": of_a_made_weight,
    "written, for some": of_some_and_written,
}
OF_SOME = [*CLIPPED][-6:]  # in the owner's own call they are other ones in a batch
IN_PROPORTION = {
    "reversed": lambda m, x: m.head(Reverse.apply(m.body(x)).tanh()),
    "hook": hooked(lambda g: 0.5 * g),
    "looked at": hooked(lambda g: None),
    "at the logits": hooked(lambda g: 3 * g, "head"),
}


def made(forward, classes=3):
    torch.manual_seed(0)
    return Custom(forward, body=linear(4, 5), tanh=nn.Tanh(), head=linear(5, classes))


X = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("way", CLIPPED)
def test_clipped_ones_are_pulled_back_as_they_are(way, params):
    model = made(CLIPPED[way])
    table = oracle.norms(model, oracle.ones(X))
    verify = way not in OF_SOME
    options = {"scheme": ["expected", "entropy"], "params": params, "verify": verify}
    kept = (lambda name: name.startswith("head")) if params == "last_layer" else (lambda name: True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)
        found = score_pool(model, [X], progress=False, **options)
    for scheme, scores in found.items():
        assert_close_relative(scores, table.scores(scheme, keep=kept), 1e-5, scheme)


@pytest.mark.parametrize("classes", [1, 2])
def test_two_classes_are_no_one_direction_then(classes):
    model = made(CLIPPED["function"], classes)
    likelihood = "bernoulli" if classes == 1 else "categorical"
    expected = oracle.scores(model, oracle.ones(X), likelihood=likelihood)
    with pytest.warns(SlowPathWarning, match="in proportion"):
        found = score_pool(model, [X], progress=False)
    assert_close_relative(found, expected, 1e-5)


@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("way", IN_PROPORTION)
def test_others_are_fast(way, params):
    model = made(IN_PROPORTION[way])
    kept = (lambda name: name.startswith("head")) if params == "last_layer" else (lambda name: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        found = score_pool(model, [X], params=params, progress=False)
    assert_close_relative(found, oracle.scores(model, oracle.ones(X), keep=kept), 1e-5)


def test_hooks_of_modules():
    body = nn.Linear(5, 5)
    body.register_full_backward_hook(lambda module, given, out: (given[0].clamp(-0.01, 0.01),))
    torch.manual_seed(0)
    model = Custom(
        lambda m, x: m.head(m.middle(m.body(x).tanh()).tanh()),
        body=linear(4, 5),
        middle=body,
        head=linear(5, 3),
    )
    with pytest.warns(SlowPathWarning, match="backward hook"):
        found = score_pool(model, [X], progress=False)
    assert_close_relative(found, oracle.scores(model, oracle.ones(X)), 1e-5)


LABELS = torch.tensor([0, 2, 1, 0])
ALL = CLIPPED | {f"in proportion, {way}": forward for way, forward in IN_PROPORTION.items()}


@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("way", ALL)
def test_sketches_are_of_what_is_made_of_them(way, params):
    model, verify = made(ALL[way]), way not in OF_SOME
    names = ["head.weight", "head.bias"] if params == "last_layer" else None
    exact, sizes = sketched.expected(model, (X, LABELS), 16, 3, names)
    options = {"verify": verify, "params": params, "norms": True, "loss": "cross_entropy"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)
        found, norms = gradient_sketch(model, [(X, LABELS)], 16, seed=3, progress=False, **options)
    assert (found - exact).norm() <= 1e-5 * exact.norm()
    assert_close_relative(norms, sizes, 1e-5)


def assert_mean_is_exact(model, **options):
    parameters = list(model.parameters())
    pairs = zip(X.split(1), LABELS.split(1), strict=True)
    losses = [F.cross_entropy(model(x), label) for x, label in pairs]
    grads = [torch.autograd.grad(loss, parameters) for loss in losses]
    batches = [(X[:3], LABELS[:3]), (X[3:], LABELS[3:])]
    found = mean_gradient(model, batches, loss="cross_entropy", progress=False, **options)
    for mean, *own in zip(found.values(), *grads, strict=True):
        exact = torch.stack(own).mean(0)
        assert (mean - exact).norm() <= 1e-5 * exact.norm()


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("way", ALL)
def test_mean_gradients_are_what_is_made_of_them(way, verify):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)
        assert_mean_is_exact(made(ALL[way]), verify=verify)


@pytest.mark.parametrize("when", ["", "pre_"])
def test_mean_gradients_with_hooks_of_modules(when):
    torch.manual_seed(0)
    model = nn.Sequential(linear(4, 5), nn.Tanh(), linear(5, 5), nn.Tanh(), linear(5, 3))

    def change(module, *gradients):
        return tuple(0.5 * g.clamp(-0.01, 0.01) for g in gradients[0])

    getattr(model[2], f"register_full_backward_{when}hook")(change)
    with pytest.warns(SlowPathWarning, match="backward hook"):
        assert_mean_is_exact(model)
