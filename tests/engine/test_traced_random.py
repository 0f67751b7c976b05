"""Models whose random numbers begin anew in each run: all samples at once, and never replayed."""

import pytest
import torch

from fastgradnorm import naive_score_pool
from tests.support.cases import Custom, linear
from tests.support.tracing import eager, replayed, scores  # noqa: F401


def generator(m, h):
    made = torch.Generator().manual_seed(0)
    return h * torch.randn(h.shape[1], generator=made)


def in_place(m, h):
    made = torch.Generator().manual_seed(0)
    return h * torch.empty(h.shape[1]).uniform_(generator=made)


def forked(m, h):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return h * torch.rand(h.shape[1])


def seldom(m, h):
    """Numbers that are the same most times."""
    made = torch.Generator().manual_seed(3)
    return h * torch.full((h.shape[1],), 0.97).bernoulli(generator=made)


def mixed_up(m, h):
    made = torch.Generator().manual_seed(0)
    return h[:, torch.randperm(h.shape[1], generator=made)]


WAYS = [generator, in_place, forked, seldom, mixed_up]


@pytest.mark.slow
@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize(
    "way", [generator, in_place, forked, seldom, mixed_up], ids=lambda w: w.__name__
)
def test_they_are_exact_and_fast(way, verify, params):
    torch.manual_seed(0)
    model = Custom(lambda m, x: m.head(way(m, m.body(x))), body=linear(4, 5), head=linear(5, 3))
    x = torch.randn(12, 4)
    found = scores(model, x.split(2), verify=verify, params=params)
    expected = naive_score_pool(model, [x], params=params)
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=0)
    if way is not mixed_up and params == "all":  # heads alone are replayed
        assert replayed() == 0
