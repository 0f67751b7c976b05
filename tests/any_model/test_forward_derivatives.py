"""Models that take derivatives forwards, by `torch.func.jvp`, `jacfwd` or `hessian`."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import GradNormScorer
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

# PyTorch's own forward derivatives.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning"),
]

X = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(0))
PARTS = {
    "first": linear(6, 6), "body": linear(6, 8), "conv": nn.Conv2d(2, 8, 3),
    "up": nn.ConvTranspose2d(2, 8, 3), "norm": nn.GroupNorm(2, 8), "batch": nn.BatchNorm2d(8),
    "head": linear(8, 3),
}  # fmt: skip


def along(function, x):
    return torch.func.jvp(function, (x,), (torch.cos(x),))[1]


def jacobian(function, x):
    return torch.func.vmap(torch.func.jacfwd(function))(x)


FORMS = {
    "linear": lambda m, x: m.head(along(lambda h: torch.tanh(m.body(h)), x).mean((1, 2))),
    "of what is made": lambda m, x: m.head(
        (along(lambda h: torch.tanh(m.body(h)), m.first(x)) + m.body(x)).mean((1, 2))
    ),
    "convolution": lambda m, x: m.head(
        along(lambda h: torch.tanh(m.norm(m.conv(h))), x).mean((2, 3))
    ),
    "transposed": lambda m, x: m.head(along(lambda h: torch.tanh(m.up(h)), x).mean((2, 3))),
    "pooled": lambda m, x: m.head(
        along(lambda h: F.max_pool2d(m.batch(m.conv(h)), 2).tanh(), x).mean((2, 3))
    ),
    "jacobian": lambda m, x: m.head(
        jacobian(lambda h: torch.tanh(m.body(h)), x[:, 0, 0]).mean(2)
    ),
    "hessian": lambda m, x: m.head(
        m.body(torch.func.vmap(torch.func.hessian(lambda h: torch.tanh(m.first(h)).sum()))(
            x[:, 0, 0]).diagonal(dim1=1, dim2=2))
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("name", FORMS)
def test_exact_and_no_sample_by_itself(name, params, verify):
    model = Custom(FORMS[name], **PARTS)
    keep = (lambda name: name.startswith("head.")) if params == "last_layer" else lambda name: True
    table = oracle.norms(model, oracle.ones(X))
    options = {"params": params, "scheme": ["expected", "entropy"], "progress": False}
    found = GradNormScorer(model, verify=verify, **options).score([X[:3], X[3:]])
    for scheme, scores in found.items():
        assert_close_relative(scores.values, table.scores(scheme, keep=keep), 2e-5, scheme)


@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_a_frozen_backbone_and_some_of_the_classes(name):
    model = Custom(FORMS[name], **PARTS)
    for each in (model.body, model.conv, model.norm):
        each.requires_grad_(False)
    exact = oracle.scores(model, oracle.ones(X))
    found = GradNormScorer(model, rtol=1e-6, progress=False).score([X])
    assert_close_relative(found.values, exact, 2e-5)
