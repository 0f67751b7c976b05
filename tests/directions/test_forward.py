"""Products with one direction by forward mode, and what it leaves to taps."""

import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional as F

from benchmarks.trap_models import TRAPS
from fastgradnorm import UnsupportedModelError, explain_gradients, gradient_dots
from fastgradnorm._engine import forward
from tests.directions.test_layers import in_reals
from tests.engine.test_sketched import MODELS, made
from tests.support.cases import Custom, perturb
from tests.support.directions import case, dot, gradients, random_directions, size

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]
OPTIONS = {"loss": "cross_entropy", "progress": False}


@pytest.fixture
def ways(monkeypatch):
    """How each chunk was made, with small models taken for large: `None`, or why by taps."""
    found = []
    products = forward.ForwardMode.products

    def noted(self, *given):
        made = products(self, *given)
        found.append(None if made is not None else self.why)
        return made

    monkeypatch.setattr(forward.ForwardMode, "products", noted)
    monkeypatch.setattr(forward, "_LEAST", 0)
    return found


def check(model, batches, loss=None, count=1, tolerance=1e-5, **options):
    def cross_entropy(model, sample):
        return F.cross_entropy(model(sample[0]), sample[1])

    directions = random_directions(model, count)
    found = [*map(in_reals, gradients(model, batches, loss or cross_entropy))]
    actual = gradient_dots(model, batches, directions, **OPTIONS, **options).double()
    wide = [*map(in_reals, directions)]
    exact = torch.stack([torch.stack([dot(g, v) for v in wide]) for g in found])
    room = torch.stack([size(g) for g in found])[:, None] * torch.stack([*map(size, wide)])
    assert bool(((actual - exact).abs() <= tolerance * room).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_layers(name, ways):
    model, batch = made(name)
    check(model, [batch])
    assert set(ways) == {None}


@pytest.mark.parametrize("name", ["perceptron", "convolutions", "text", "series", "tied"])
def test_losses_at_many_positions_and_batches(name, ways):
    torch.manual_seed(1)
    model, batches, options, loss = case(name)
    check(model, batches, loss, **options)
    assert set(ways) == {None}


@pytest.mark.slow
@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: f"{trap.group}, {trap.name}")
def test_traps(trap, ways):
    model, drawn = trap.make()
    batches = [(x, torch.arange(len(x)) % 3) for x in drawn]
    if trap.refuse:
        with pytest.raises(UnsupportedModelError):
            check(model, batches)
        return
    if trap.name == "fully confident samples":  # of which autograd loses the digits
        batches = [(x, y * 0 + 1) for x, y in batches]
    check(model, batches, tolerance=1e-9)
    assert set(ways) == {None}


class _Sign(torch.autograd.Function):
    """Its pull-back lets gradients through; of the true derivative nothing is left."""

    @staticmethod
    def forward(x):
        return x.sign()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g

    generate_vmap_rule = True


class _OldSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, g):
        return g


class _Reversed(_Sign):
    """Forwards it is what it is; its pull-back turns gradients round."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return -g

    @staticmethod
    def jvp(ctx, tangent):
        return tangent.clone()


def _least(model, x):
    h = model.inner(x).relu()
    where = torch.zeros(h.shape, dtype=torch.long)
    return h.new_zeros(h.shape).scatter_reduce(1, where, h, "amin", include_self=False)


def _multiplied(model, x):
    h = model.inner(x) * torch.tensor([0.0, 1.0, 1.0, 1.0])
    where = torch.zeros(h.shape, dtype=torch.long)
    return h.new_ones(h.shape).scatter_reduce_(1, where, h, "prod")


def _gated(model, x):
    with torch.no_grad():
        gate = torch.sigmoid(model.inner(x))
    return torch.tanh(model.inner(x)) * gate


def _told(model, x):
    h = model.inner(x)
    return h * (1 + (h.grad_fn is None and torch.is_grad_enabled()))


LEFT = {
    "straight through": (lambda m, x: _Sign.apply(m.inner(x)), "jvp"),
    "straight through, as before torch.func": (lambda m, x: _OldSign.apply(m.inner(x)), ""),
    "a jvp that is not the pull-back": (lambda m, x: _Reversed.apply(m.inner(x)), "_Reversed"),
    "the larger of equal ones": (lambda m, x: m.inner(x).fmax(m.inner(x).detach()), "fmax"),
    "the least of equal ones": (_least, "scatter_reduce"),
    "a product with a zero": (_multiplied, "scatter_reduce_"),
    "no_grad": (_gated, "no_grad"),
    "a look at grad_fn": (_told, "grad_fn"),
}
DONE = {
    "detached": lambda m, x: m.inner(x) * m.inner(x).detach(),
    "data": lambda m, x: m.inner(x) * m.inner(x).data,
    "inference mode": lambda m, x: m.inner(x) * torch.sigmoid(x).detach(),
    "in place": lambda m, x: m.inner(x).mul_(2).tanh_() + 0,
    "written into": lambda m, x: (
        torch.zeros_like(x).copy_(m.inner(x)).index_add_(1, torch.tensor([0]), m.inner(x)[:, :1])
    ),
    "a branch": lambda m, x: m.inner(x) if (m.inner(x) > -1e9).all() else x,
    "checkpoint": lambda m, x: torch.utils.checkpoint.checkpoint(m.inner, x, use_reentrant=False),
    "grad": lambda m, x: torch.func.grad(lambda v: torch.tanh(m.inner(v)).square().sum())(x),
    "a counting buffer": lambda m, x: m.inner(x) * m.count.add_(1).sign(),
}


def _model(run):
    torch.manual_seed(2)
    model = Custom(lambda m, x: m.head(run(m, x) + 0.5 * x), inner=nn.Linear(4, 4))
    model.head = nn.Linear(4, 3)
    model.register_buffer("count", torch.ones(()))
    return perturb(model), (torch.randn(5, 4), torch.arange(5) % 3)


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_taps(name, ways):
    run, reason = LEFT[name]
    model, batch = _model(run)
    check(model, [batch, batch])
    assert None not in ways
    assert reason in ways[0]


@pytest.mark.parametrize("name", DONE)
def test_what_is_not(name, ways):
    model, batch = _model(DONE[name])
    check(model, [batch])
    assert set(ways) == {None}
    assert float(model.count) == 1


def test_hooks_on_gradients(ways):
    def reversed_gradient(model, x):
        h = model.inner(x)
        if h.requires_grad:
            h.register_hook(lambda g: -g)
        return h

    model, batch = _model(reversed_gradient)
    check(model, [batch])
    assert None not in ways


@pytest.mark.slow
def test_how_many_directions_and_what_else(ways):
    model, batch = _model(lambda m, x: m.inner(x))
    check(model, [batch], count=2)
    assert "2 directions" in ways.pop()
    gradient_dots(model, [batch], random_directions(model, 1), cosine=True, **OPTIONS)
    assert "norms" in ways.pop()
    gradient_dots(model, [batch], random_directions(model, 1), autocast=torch.bfloat16, **OPTIONS)
    assert "autocast" in ways.pop()


@pytest.mark.slow
def test_few_convolutions_are_left_to_taps(ways, monkeypatch):
    monkeypatch.setattr(forward, "_LEAST", 4 * 9 * 2 * 3 * 3)
    body = nn.Conv2d(2, 4, 3)
    model = perturb(nn.Sequential(body, nn.Flatten(), nn.Linear(4 * 3 * 3, 3)))
    check(model, [(torch.randn(2, 2, 5, 5), torch.arange(2))])
    assert ways.pop() is None
    model = perturb(nn.Sequential(nn.Flatten(), nn.Linear(50, 30), nn.ReLU(), nn.Linear(30, 3)))
    check(model, [(torch.randn(2, 2, 5, 5), torch.arange(2))])
    assert "multiply 0 times" in ways.pop()


def test_what_explain_tells(ways, monkeypatch):
    options = {"directions": 1, "loss": "cross_entropy"}
    model, batch = _model(lambda m, x: m.inner(x))
    found = explain_gradients(model, batch, **options)
    assert {row.rule for row in found.rows} == {"forward mode"}
    assert [row.flops for row in found.rows][:2] == [4 * 16, 2 * 4]
    assert not found.advice
    model, batch = _model(lambda m, x: _Sign.apply(m.inner(x)))
    found = explain_gradients(model, batch, **options)
    assert [row.rule for row in found.rows] == ["product", "gradient"] * 2
    assert "without forward mode: You must implement the jvp" in found.advice[0]
    given = random_directions(model, 1)
    found = explain_gradients(model, batch, directions=given, cosine=True, loss="cross_entropy")
    assert "norms" in found.advice[0]


@pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")
def test_samples_that_branch_apart(ways):
    model, (x, y) = _model(lambda m, x: m.inner(x) if bool(x[0, 0] > 0) else 2 * m.inner(x))
    x[:, 0] = torch.tensor([-1.0, 1.0, -1.0, 1.0, 1.0])
    check(model, [(x, y)])
    assert set(ways) == {None}
    assert len(ways) == 2
