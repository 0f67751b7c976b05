"""Samples with last layers of their own: each is compared by its own."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb

# Samples that decide by values of their own decide for the whole batch in it: that is told.
pytestmark = pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")


def features(m, x):
    return torch.tanh(m.body(x))


def by_sign(m, x):
    return m.heads[int(x[0, 0] > 0)](features(m, x))


def by_largest(m, x):
    return m.heads[int(x.sum(0)[:3].argmax())](features(m, x))


def through_another_body(m, x):
    z = features(m, x) if bool(x[0, 0] > 0) else torch.tanh(m.other(x))
    return m.heads[int(x[0, 1] > 0)](z)


MODELS = {
    "by sign": (by_sign, lambda: linear(5, 3)),
    "by the largest": (by_largest, lambda: linear(5, 3)),
    "another body": (through_another_body, lambda: linear(5, 3)),
    "normalised": (by_sign, lambda: parametrizations.weight_norm(linear(5, 3))),
    "without biases": (by_sign, lambda: nn.Linear(5, 3, bias=False)),
}


@pytest.mark.slow
@pytest.mark.parametrize("verify", [True, "all", "first", False])
@pytest.mark.parametrize("name", MODELS)
def test_are_right(name, verify):
    torch.manual_seed(0)
    forward, make = MODELS[name]
    heads = nn.ModuleList(make() for _ in range(3))
    parts = {"body": linear(4, 5), "other": linear(4, 5), "heads": heads}
    model, x = perturb(Custom(forward, **parts)), torch.randn(11, 4)
    found = score_pool(
        model, x.split(4), params="last_layer", verify=verify, scheme=oracle.SCHEMES, progress=False
    )
    table = oracle.norms(model, oracle.ones(x))
    for scheme in oracle.SCHEMES:
        exact = table.scores(scheme, keep=lambda name: name.startswith("heads"))
        assert_close_relative(found[scheme], exact, 1e-5, scheme)
