"""Models that take derivatives by their own parameters, as learned inner steps do."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, vjp, vmap

from fastgradnorm import gradient_sketch, naive_score_pool, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative, assert_exact
from tests.support.cases import Custom, linear


def energy(w):
    return (w.sin() * w.flip(0)).sum()


def pulled_back(w):
    out, pull = vjp(lambda v: v.sin() * v, w)
    return pull(torch.ones_like(out))[0]


def of_two(w):
    return sum(grad(lambda a, b: (a * b.cos()).sum(), argnums=(0, 1))(w, w.T))


def inner_steps(w):
    for _ in range(2):
        w = w - 0.1 * grad(energy)(w)
    return w


def through_a_layer(w):
    layer = nn.Linear(6, 6, bias=False, dtype=w.dtype)
    loss = lambda p: functional_call(layer, p, (torch.eye(6, dtype=w.dtype),)).sin().sum()  # noqa: E731
    return grad(loss)({"weight": w})["weight"]


DERIVATIVES = {
    "grad": lambda w: grad(energy)(w),
    "of a cube": lambda w: grad(lambda v: (v**3).sum())(w),
    "vjp": pulled_back,
    "by two": of_two,
    "rows": lambda w: vmap(jacrev(lambda row: row.sin() * row))(w).sum(1),
    "second": lambda w: vmap(lambda row: jacrev(jacrev(energy))(row).sum(0))(w),
    "of a view": lambda w: grad(energy)(w.T),
    "inner steps": inner_steps,
    "through a layer": through_a_layer,
}


def make(name):
    def forward(m, x):
        return m.head(torch.tanh(m.body(x)) @ torch.tanh(DERIVATIVES[name](m.weight)))

    torch.manual_seed(0)
    model = Custom(forward, body=linear(4, 6), head=linear(6, 3))
    model.weight = nn.Parameter(torch.randn(6, 6))
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", DERIVATIVES)
def test_exact(name):
    assert_exact(make(name), torch.randn(5, 4))


@pytest.mark.parametrize("name", ["grad", "inner steps"])
def test_unverified_and_by_the_plain_loop(name):
    model, x = make(name), torch.randn(5, 4)
    exact = oracle.scores(model, oracle.ones(x))
    assert_close_relative(naive_score_pool(model, [x], progress=False), exact, 1e-5)
    assert_close_relative(score_pool(model, [x], verify=False, progress=False), exact, 1e-5)


def test_sketches():
    model, x = make("grad"), torch.randn(5, 4)
    wide = copy.deepcopy(model).double()
    options = {"dim": 4096, "scheme": "entropy", "progress": False}
    norms = gradient_sketch(wide, [x.double()], **options).norm(dim=1)
    assert_close_relative(norms, oracle.scores(model, oracle.ones(x), "entropy"), 0.1)


@pytest.mark.slow
def test_derivatives_by_features_and_parameters_at_once():
    def forward(m, x):
        h = torch.tanh(m.body(x))
        by_both = grad(lambda h, w: (h @ w).sin().sum(), argnums=(0, 1))
        slopes = vmap(by_both, in_dims=(0, None))(h, m.weight)
        return m.head(slopes[0] + slopes[1].sum(2))

    model = make("grad")
    both = Custom(forward, body=model.body, head=model.head)
    both.weight = model.weight
    assert_exact(both, torch.randn(5, 4))
