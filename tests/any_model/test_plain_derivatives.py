"""Models that take derivatives in ways that transforms do not see: exact, slow, and told why."""

import pytest
import torch
from torch import nn
from torch.func import jacfwd, jvp, linearize, vmap

from fastgradnorm import (
    SlowPathWarning,
    naive_score_pool,
    score_pool,
)
from tests.support import oracle, sketched
from tests.support.asserts import assert_close_relative, assert_exact
from tests.support.cases import Custom, linear


def energy(v):
    return (v.sin() * v.flip(0)).sum()


def of_a_detached_one(m, h):
    with torch.enable_grad():
        v = m.weight.detach().requires_grad_()
        (slope,) = torch.autograd.grad(energy(v), v)
    return h @ (slope + m.weight)


def backward(m, h):
    v = m.weight.clone()
    v.retain_grad()
    energy(v).backward(retain_graph=True)
    return h @ (v.grad.detach() + m.weight)


def forces(m, h):
    """As potentials of atoms give them: of an energy, by what it is given."""
    h = h.detach().requires_grad_()
    (slope,) = torch.autograd.grad(m.gate(torch.tanh(m.inner(h))).sum(), h, create_graph=True)
    return slope


PLAIN = {
    "by a parameter": lambda m, h: h @ torch.autograd.grad(
        energy(m.weight), m.weight, create_graph=True
    )[0],
    "a constant": lambda m, h: h @ (torch.autograd.grad(energy(m.weight), m.weight)[0] + m.weight),
    "by a weight of a layer": lambda m, h: h * torch.autograd.grad(
        m.gate(m.weight).sin().sum(), m.gate.weight, create_graph=True
    )[0],
    "jacobian": lambda m, h: h @ torch.autograd.functional.jacobian(
        energy, m.weight, create_graph=True
    ),
    "of a detached one": of_a_detached_one,
    "backward": backward,
    "by features": lambda m, h: torch.autograd.grad(
        m.gate(torch.tanh(h)).sum(), h, create_graph=True
    )[0],
    "forces": forces,
}  # fmt: skip
LINEARIZED = {
    "a parameter": lambda m, h: h @ linearize(energy_of_rows, m.weight)[1](m.weight.detach()),
    "features": lambda m, h: h * linearize(lambda h: m.gate(h.sin()), h)[1](torch.ones_like(h)),
    "both": lambda m, h: sum(linearize(lambda w: h @ w.sin(), m.weight)[1](w) for w in [m.weight]),
    "with its value": lambda m, h: h @ linearize(torch.sin, m.weight)[0]
    + h @ linearize(torch.sin, m.weight)[1](torch.ones_like(m.weight)),
    "called twice": lambda m, h: (lambda f: h @ (f(m.weight) - 2 * f(torch.ones_like(m.weight))))(
        linearize(torch.sin, m.weight)[1]
    ),
}  # fmt: skip


def energy_of_rows(v):
    return v.sin() * v.flip(0)


def make(derive):
    torch.manual_seed(0)
    parts = {"body": linear(4, 6), "inner": linear(6, 6), "gate": linear(6, 1)}
    model = Custom(
        lambda m, x: m.head(torch.tanh(derive(m, torch.tanh(m.body(x))))),
        **parts,
        head=linear(6, 3),
    )
    model.weight = nn.Parameter(torch.randn(6, 6))
    return model.eval()


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("way", PLAIN)
def test_plain_autograd(way, verify):
    model, x = make(PLAIN[way]), torch.randn(4, 4)
    exact = oracle.scores(model, oracle.ones(x), "entropy")
    options = {"scheme": "entropy", "progress": False}
    with pytest.warns(SlowPathWarning, match="takes derivatives by plain autograd"):
        found = score_pool(model, [x], verify=verify, **options)
    assert_close_relative(found, exact, 1e-5)
    assert_close_relative(naive_score_pool(model, [x], **options), exact, 1e-5)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
def test_of_the_last_layer_and_of_some_parameters():
    model, x = make(PLAIN["by a parameter"]), torch.randn(4, 4)
    for params in ("last_layer", lambda name, p: name.startswith("head")):
        table = oracle.norms(model, oracle.ones(x))
        with pytest.warns(SlowPathWarning, match="plain autograd"):
            found = score_pool(model, [x], params=params, progress=False)
        exact = table.scores("expected", keep=lambda name: name.startswith("head"))
        assert_close_relative(found, exact, 1e-5)


def test_sketches_are_made_one_by_one():
    model, batch = make(PLAIN["by a parameter"]), (torch.randn(4, 4), torch.arange(4) % 3)
    with pytest.warns(SlowPathWarning, match="takes derivatives by plain autograd"):
        found = sketched.found(model, [batch], 16, 1)
    exact, _ = sketched.expected(model, batch, 16, 1)
    assert (found - exact).norm() <= 1e-5 * exact.norm()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize(
    "way, verify",
    [*((way, False) for way in LINEARIZED), ("a parameter", True), ("features", True)],
)
def test_linearize(way, verify):
    model, x = make(LINEARIZED[way]), torch.randn(2, 4)
    exact = oracle.scores(model, oracle.ones(x), "entropy")
    with pytest.warns(SlowPathWarning, match=r"uses `torch\.func\.linearize`"):
        found = score_pool(model, [x], scheme="entropy", verify=verify, progress=False)
    assert_close_relative(found, exact, 1e-5)


FORWARD_MODE = {
    "of a layer": lambda m, h: jvp(lambda h: m.gate(h.sin()), (h,), (h,))[1] * h,
    "with its value": lambda m, h: h
    * sum(jvp(lambda h: m.gate(h.sin()) * m.gate.bias, (h,), (h,))),
    "parts that do not count": lambda m, h: jvp(
        lambda h: h.sin() @ m.weight + m.gate.bias + m.inner.bias, (h,), (h,)
    )[1] * m.gate.bias,
    "norms": lambda m, h: vmap(
        lambda r: jvp(
            lambda r: nn.functional.layer_norm(r, (6,), m.inner.bias, m.body.bias), (r,), (r,)
        )[1]
    )(h),
    "rows": lambda m, h: vmap(jacfwd(lambda h: m.gate(h.sin())))(h)[:, 0] * h,
}  # fmt: skip


# PyTorch's own, where forward mode is used first in a process.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("way", FORWARD_MODE)
def test_forward_mode_is_fast(way):
    """Slow paths warn, and warnings are errors."""
    assert_exact(make(FORWARD_MODE[way]), torch.randn(4, 4))
