"""PyTorch's transforms, where nobody can look into them: any model is scored as exactly."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from fastgradnorm_kernels import functorch
from fastgradnorm_kernels.proof import SlowPathWarning
from torch.func import grad, vjp, vmap
from torch.nn import functional as F

from fastgradnorm import gradient_sketch
from tests.support.broken_paths import (
    assert_exact_without,
    attending,
    checkpointed,
    convolutional,
    frozen_front,
    missing,
    normalised,
)
from tests.support.cases import CASES, Custom, linear
from tests.support.shared_models import Attention, Branching, tokens

pytestmark = pytest.mark.usefixtures("unproved")


def calls_vmap():
    def forward(m, x):
        each = vmap(lambda h: F.linear(h, m.body.weight), 1, 1)(x.unflatten(-1, (3, 4)))
        return m.head((each + m.body(x[:, :4])[:, None]).tanh().flatten(1))

    return Custom(forward, body=linear(4, 4), head=linear(12, 3))


def takes_derivatives():
    def forward(m, x):
        _, pull = vjp(lambda x: torch.tanh(m.body(x)).sum(-1), x)
        return m.head(x + pull(torch.ones(len(x)))[0])

    return Custom(forward, body=linear(4, 4), head=linear(4, 3))


def solves(function):
    """Through a matrix of each sample, or of its parameters alone."""

    def forward(m, x):
        a = 3 * torch.eye(4) + m.body(x).tanh().unflatten(-1, (4, 4))
        return m.head(function(a, x, m.head.weight[:, :3]).flatten(1))

    return Custom(forward, body=linear(4, 16), head=linear(4, 3))


def determinants(a, x, w):
    fixed = torch.det(w + 2 * torch.eye(3, dtype=w.dtype)).expand(len(x))
    found = torch.det(a), torch.logdet(a @ a.mT), torch.slogdet(a)[1], fixed
    return torch.stack(found, 1)


SOLVED = {
    "solve": lambda a, x, w: torch.linalg.solve(a, x[..., None]),
    "shared right side": lambda a, x, w: torch.linalg.solve(a, torch.ones_like(x[0])),
    "determinants": determinants,
}


def shared():
    """One weight used twice: its norms need the output gradients of both."""
    return Custom(
        lambda m, x: m.head(torch.tanh(m.body(torch.tanh(m.body(x))))),
        body=linear(4, 4), head=linear(4, 3),
    )  # fmt: skip


def from_case(name):
    return lambda: CASES[name].random()[0], CASES[name].draw


def rows(width):
    return lambda n: torch.randn(n, width)


MODELS = {
    **{name: from_case(name) for name in CASES if name != "resnet18"},
    "convolutional": (convolutional, lambda n: torch.randn(n, 2, 14, 14)),
    "frozen layers": (frozen_front, lambda n: torch.randn(n, 2, 14, 14)),
    "attention": (attending, tokens),
    "attention, causal": (lambda: attending(is_causal=True), tokens),
    "attention, masked": (lambda: Attention(masked=True, batch_first=True), tokens),
    "checkpoints": (lambda: checkpointed(False, twice=True), rows(4)),
    "weight norm": (normalised, rows(4)),
    "branches": (lambda: Branching(lambda x: (x > -1).all()), rows(4)),
    "calls vmap": (calls_vmap, rows(12)),
    "derivatives": (takes_derivatives, rows(4)),
    "shared weight": (shared, rows(4)),
    **{name: (partial(solves, function), rows(4)) for name, function in SOLVED.items()},
}


class Without:
    """A module as it is, but for one name."""

    def __init__(self, module, name, value=None):
        self._module, self._name, self._value = module, name, value

    def __getattr__(self, name):
        if name != self._name:
            return getattr(self._module, name)
        if self._value is None:
            raise AttributeError(f"no {name}")
        return self._value


FUNCTORCH = sorted({*re.findall(r"\b_functorch\.(\w+)\(", Path(functorch.__file__).read_text())})


class TestFunctorch:
    """Without it nothing is light, and a public function looks into the wrappers."""

    path = functorch.PATH

    @pytest.mark.slow
    @pytest.mark.parametrize("name", MODELS)
    def test_any_model(self, name, monkeypatch):
        monkeypatch.setattr(functorch, "_functorch", None)
        make, draw = MODELS[name]
        assert_exact_without(self.path, make(), draw(5))

    @pytest.mark.slow
    @pytest.mark.parametrize("name", FUNCTORCH)
    def test_any_name(self, name, monkeypatch):
        monkeypatch.setattr(functorch, "_functorch", Without(functorch._functorch, name))
        assert_exact_without(self.path, frozen_front(), torch.randn(4, 2, 14, 14))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "name, value",
        [
            ("maybe_get_bdim", lambda tensor: 1),
            ("is_gradtrackingtensor", lambda tensor: False),
            ("is_batchedtensor", lambda tensor: True),
            ("maybe_current_level", lambda: 1),
            ("_wrap_for_grad", lambda tensor, level: 2 * tensor),
            ("_unwrap_for_grad", lambda tensor, level: tensor),
        ],
    )
    def test_names_that_mean_something_else(self, name, value, monkeypatch):
        monkeypatch.setattr(functorch, "_functorch", Without(functorch._functorch, name, value))
        assert_exact_without(self.path, frozen_front(), torch.randn(4, 2, 14, 14))

    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["no context", "no base", "another apply"])
    def test_what_is_no_function_of_that_module(self, how, monkeypatch):
        if how == "no context":
            monkeypatch.setattr(functorch, "outside", None)
        elif how == "no base":  # as where light functions derive from `autograd.Function`
            public = classmethod(lambda cls, *inputs: torch.autograd.Function.apply(*inputs))
            monkeypatch.setattr(functorch.SingleLevel, "apply", public)
        else:
            monkeypatch.setattr(functorch.SingleLevel, "apply", missing)
        assert_exact_without(self.path, convolutional(), torch.randn(4, 2, 14, 14))

    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["differ", "double", "unlike"])
    def test_samples_that_branch_apart(self, how, monkeypatch):
        monkeypatch.setattr(functorch, "_functorch", None)
        x = torch.randn(9, 4)
        choices = {
            "differ": lambda x: bool(x.sum() > 0),
            "double": lambda x: x.double().sum() > 0,
            "unlike": lambda x: torch.equal(x.sign()[:, :1], x.sign()[:, 1:2]),
        }
        assert_exact_without(self.path, Branching(choices[how]), x)

    @pytest.mark.parametrize("broken", [False, True])
    def test_where_a_function_is(self, broken, monkeypatch):
        """What is told without it is the same."""
        if broken:
            monkeypatch.setattr(functorch, "_functorch", None)
            with pytest.warns(SlowPathWarning):
                functorch.works()
        told = []

        def note(x, *_):
            told.append((functorch.is_transforming(), functorch.derivative_level(x)))
            return x.sum()

        x = torch.randn(3, 2)
        note(x)
        vmap(note)(x)
        vmap(lambda x: vjp(note, x)[1](x.sum()))(x)
        vmap(lambda x: vjp(lambda y: note(x), x)[0])(x)  # a constant
        vmap(lambda x: vjp(lambda x: grad(note)(x).sum(), x)[0])(x)
        vmap(lambda x: vjp(lambda x: grad(lambda y: note(x, y))(x).sum(), x)[0])(x)
        vmap(lambda x: vmap(note)(x.expand(2, 2)))(x)
        with torch.no_grad():
            vmap(note)(x)
        levels = [0, 0, 2, 0, 3, 2, 0, 0]
        assert told == list(zip([False] + 7 * [True], levels, strict=True))

    @pytest.mark.slow
    def test_a_sketch(self, monkeypatch):
        model, x = convolutional(), torch.randn(4, 2, 14, 14)
        expected = gradient_sketch(model, [x], progress=False)
        functorch.works.cache_clear()
        monkeypatch.setattr(functorch, "_functorch", None)
        with pytest.warns(SlowPathWarning, match=functorch.PATH):
            actual = gradient_sketch(model, [x], progress=False)
        assert torch.allclose(actual, expected, 1e-4, 1e-5)
