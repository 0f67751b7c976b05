"""Activations whose slopes are found once for all cotangents: exact, and only where it pays."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import GradNormScorer, naive_score_pool, score_pool
from fastgradnorm._operations import activations
from tests.support import oracle

CLASSES = 5
CALLS = {
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": lambda x: F.hardswish(4 * x),
    "elu": lambda x: F.elu(x, 0.7),
    "celu": lambda x: F.celu(x, alpha=0.7),
    "selu": F.selu,
    "softplus": lambda x: F.softplus(x, beta=3, threshold=2),
    "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "module": nn.GELU(),
    "by name": lambda x: F.silu(input=x),
    "of every second": lambda x: F.gelu(x[..., ::2]).repeat_interleave(2, -1),
    "transposed": lambda x: F.gelu(x.mT).mT,
    "one number": lambda x: x * F.silu(x.mean((1, 2, 3), keepdim=True)),
    "frozen": lambda x: x.tanh() + F.gelu(torch.linspace(-1, 1, x.shape[-1])),
    "changed later": lambda x: F.gelu(x).mul_(0.9).add_(x),
    "input changed": lambda x: F.gelu(y := x * 0.8) + y.detach(),
    "twice": lambda x: F.gelu(F.gelu(x) + x),
    "inside vmap": lambda x: torch.func.vmap(F.gelu)(x),
    "its own slope": lambda x: x * torch.func.grad(lambda t: F.silu(t).sum())(x),
    "without a graph": lambda x: x.tanh() * F.gelu(x.detach()),
}
# Left to PyTorch.
OTHERS = {
    "in place": lambda x: F.silu(x * 1.5, inplace=True),
    "in place, unnamed": lambda x: F.elu(x * 1.5, 0.7, True),
    "in place by a number": lambda x: F.celu(x * 1.5, 0.7, 1),
    "in place by a number of numpy": lambda x: F.silu(x * 1.5, inplace=np.True_),
}


class _Images(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=2)
        self.norm, self.head = nn.GroupNorm(2, 6), nn.Linear(6, CLASSES)

    def forward(self, x):
        x = self.norm(self.call(self.first(x)))
        return self.head(self.call(self.second(x)).mean((2, 3)))


@pytest.fixture
def used(monkeypatch):
    """How many slopes were found; of however few numbers."""
    monkeypatch.setattr(activations, "_LEAST", 1)
    seen = []
    forward = activations._Sloped.forward

    def counted(ctx, *args):
        seen.append(args)
        return forward(ctx, *args)

    monkeypatch.setattr(activations._Sloped, "forward", staticmethod(counted))
    return seen


def _model(call):
    torch.manual_seed(0)
    return _Images(call).eval(), torch.randn(4, 3, 8, 8)


@pytest.mark.parametrize("name", [*CALLS, *OTHERS])
def test_scores_are_exact(used, name):
    model, x = _model((CALLS | OTHERS)[name])
    exact = oracle.scores(model, oracle.ones(x))
    scores = score_pool(model, [x], progress=False)
    assert ((scores - exact) / exact).abs().max() <= 1e-5
    assert bool(used) == (
        name in CALLS and name not in ("frozen", "its own slope", "inside vmap", "without a graph")
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(used, dtype):
    model, x = _model(F.gelu)
    exact = oracle.scores(model, oracle.ones(x))
    autocast = dtype if dtype == torch.bfloat16 else None
    if autocast is None:
        model, x = model.double(), x.double()
    scores = score_pool(model, [x], autocast=autocast, progress=False)
    assert ((scores - exact) / exact).abs().max() <= (0.03 if autocast else 1e-10)
    assert used


@pytest.mark.parametrize("function", [F.selu, F.softplus, F.logsigmoid])
def test_a_slope_is_not_rounded_alike_in_many_layers(used, function):
    """SELU's of 1.0507 would be by .36 % in each: 5 % of the norms of the first of so many."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(24))
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            for layer in self.layers:
                x = function(layer(x))
            return self.head(x)

    torch.manual_seed(0)
    model, x = Deep().bfloat16().eval(), (torch.randn(8, 16) + 1).bfloat16()
    model.requires_grad_(False)
    model.layers[0].weight.requires_grad_(True)
    exact = naive_score_pool(model, [x])
    scores = score_pool(model, [x], progress=False, verify=False)
    assert ((scores - exact) / exact).mean().abs() <= 0.01
    assert not used


def test_a_traced_pass_has_the_same_bits(used):
    model, x = _model(F.gelu)
    scorer = GradNormScorer(model, latency=0, verify=False, progress=False)
    exact = score_pool(model, [x], progress=False)
    scores = [row for row, _ in zip(scorer.stream([x] * 80), range(80), strict=False)]
    assert all(torch.equal(row, exact) for row in scores)


@pytest.mark.parametrize(
    "options, classes",
    [({"scheme": "entropy"}, CLASSES), ({"params": "last_layer"}, CLASSES), ({}, 2)],
    ids=["one cotangent", "last layer", "two classes"],
)
def test_it_is_left_to_pytorch_where_it_would_not_pay(used, options, classes):
    model, x = _model(F.gelu)
    model.head = nn.Linear(6, classes)
    score_pool(model, [x], **options, progress=False)
    assert not used


def test_few_numbers_are_left_to_pytorch(used, monkeypatch):
    monkeypatch.setattr(activations, "_LEAST", 1 << 16)
    model, x = _model(F.gelu)
    score_pool(model, [x], progress=False)
    assert not used
