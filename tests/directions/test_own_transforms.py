"""Models that use `torch.func` themselves: sketches and products of their gradients."""

import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional as F

from fastgradnorm import gradient_dots
from tests.support.cases import Custom, perturb
from tests.support.directions import dot, gradients, random_directions
from tests.support.sketched import expected, found

TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda v: f(v).square().sum())(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "vmap": lambda f, x: torch.func.vmap(f)(x),
    "jacrev": lambda f, x: torch.func.vmap(torch.func.jacrev(f))(x).sum(1),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](torch.cos(x))[0],
    "checkpoint": lambda f, x: torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False),
}


# PyTorch warns so of its own rules of forward mode: 2.13 of a deprecation, 2.15 of the future.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_the_models_own(name):
    """What they make of an operation reads its parameter once more."""

    def run(model, x):
        return model.head(TRANSFORMS[name](lambda v: torch.tanh(model.inner(v)), x) + x)

    torch.manual_seed(4)
    model = perturb(Custom(run, inner=nn.Linear(4, 4), head=nn.Linear(4, 3)))
    x, y = torch.randn(3, 4), torch.arange(3)
    exact, sizes = expected(model, (x, y), 8, 2)
    assert float(((found(model, [(x, y)], 8, 2) - exact).norm(dim=1) / sizes).max()) < 1e-5
    directions = random_directions(model, 2)
    products = gradient_dots(model, [(x, y)], directions, loss="cross_entropy", progress=False)
    wide = gradients(model, [(x, y)], lambda m, s: F.cross_entropy(m(s[0]), s[1]))
    right = torch.stack([torch.stack([dot(g, v) for v in directions]) for g in wide])
    assert torch.allclose(products.double(), right, rtol=1e-4, atol=1e-5)
