"""Operations called in every way: arguments by place and by name, some of them by name alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import gradient_dots, score_pool
from fastgradnorm._model import watch
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, perturb
from tests.support.directions import dot, gradients, random_directions, size
from tests.support.sketched import expected, found

CALLS = {
    "addmm": lambda m, x: torch.addmm(m.bias, x, m.weight),
    "addmm, method": lambda m, x: m.bias.addmm(x, m.weight),
    "addmm, alpha": lambda m, x: torch.addmm(m.bias, x, m.weight, beta=2, alpha=0.5),
    "addmm, names": lambda m, x: torch.addmm(input=m.bias, mat1=x, mat2=m.weight, beta=1),
    "linear, names": lambda m, x: F.linear(weight=m.weight, input=x, bias=m.bias),
    "linear, one name": lambda m, x: F.linear(x, weight=m.weight),
    "matmul, name": lambda m, x: torch.matmul(x, other=m.weight),
    "convolution": lambda m, x: F.conv1d(
        x[:, None], weight=m.weight[:, None, :3], padding=1, stride=2
    ).mean(2),
    "lookup": lambda m, x: F.embedding((x > 0).long().sum(1), weight=m.weight, sparse=True),
    "lookup, places": lambda m, x: F.embedding(
        (x > 0).long(), m.weight, 0, None, 2.0, False, True
    ).mean(1),
    "einsum": lambda m, x: torch.einsum("ni,io->no", x, m.weight),
}


@pytest.fixture(params=CALLS)
def case(request):
    torch.manual_seed(3)
    parts = {"weight": nn.Parameter(torch.randn(5, 5)), "bias": nn.Parameter(torch.randn(5))}
    call = CALLS[request.param]
    model = Custom(lambda m, x: m.head(torch.tanh(call(m, x)) + m.bias), head=nn.Linear(5, 3))
    for name, parameter in parts.items():
        model.register_parameter(name, parameter)
    return perturb(model), torch.randn(4, 5), torch.arange(4) % 3


@pytest.mark.parametrize("dim", [1, 256])
def test_sketches(case, dim):
    model, x, y = case
    exact, sizes = expected(model, (x, y), dim, 2)
    assert float(((found(model, [(x, y)], dim, 2) - exact).norm(dim=1) / sizes).max()) < 1e-5


def test_products(case):
    model, x, y = case
    directions = random_directions(model, 2)
    products = gradient_dots(model, [(x, y)], directions, loss="cross_entropy", progress=False)
    wide = gradients(model, [(x, y)], lambda m, s: F.cross_entropy(m(s[0]), s[1]))
    for row, g in zip(products.double(), wide, strict=True):
        for value, v in zip(row, directions, strict=True):
            assert abs(float(value - dot(g, v))) < 1e-5 * float(size(g) * size(v))


def test_scores_where_autocast_narrows(case, monkeypatch):
    """As on a GPU: arguments are put in the place of others, here the same numbers."""
    model, x, _ = case
    monkeypatch.setattr(watch, "autocast_dtype", lambda t: t.dtype if t.dim() else None)
    scores = score_pool(model, [x], progress=False)
    assert_close_relative(scores, oracle.scores(model, oracle.ones(x)), 1e-5)
