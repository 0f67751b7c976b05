"""Changes in place of features run for all samples at once, and exactly."""

import warnings

import pytest
import torch

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear


def ipow(x):
    x **= torch.full_like(x, 2.0)
    return x


def ifloordiv(x):
    y = 3 * x.detach()
    y //= 2
    return x * y


def imod(x):
    x %= 0.7
    return x


WAYS = {
    "clamp_": lambda x: x.clamp_(-0.5, 0.5),
    "clamp_ by name": lambda x: torch.clamp_(x, min=0.1),
    "clamp_ of tensors": lambda x: x.clamp_(x.mean(1, True) - 0.3, x.mean(1, True) + 0.2),
    "clip_": lambda x: x.clip_(max=0.3),
    "cumsum_": lambda x: x.cumsum_(-1),
    "triu_": lambda x: x.view(-1, 2, 2).triu_().flatten(1),
    "tril_": lambda x: (x[..., None] @ x[:, None]).tril_().flatten(1)[:, :4],
    "addcmul_": lambda x: x.addcmul_(2 * x, 3 * x, value=0.5),
    "addcdiv_": lambda x: x.addcdiv_(2 * x, 3 + x.detach().square()),
    "addmm_": lambda x: x.addmm_(2 * x, torch.ones(4, 4).double()),
    "lerp_": lambda x: x.lerp_(3 * x, 0.3),
    "pow_": lambda x: (x.abs() + 0.1).pow_(2 + x.sigmoid()),
    "hypot_": lambda x: x.hypot_(2 + x),
    "xlogy_": lambda x: x.xlogy_(9 + x),
    "lt_": lambda x: x * x.detach().clone().lt_(0.2),
    "ge_": lambda x: x * x.detach().clone().ge_(x.mean(1, True)),
    "fmod_": lambda x: x.fmod_(0.6),
    "index_copy_": lambda x: x.index_copy_(1, torch.tensor([2]), 2 * x[:, :1]),
    "**=": ipow,
    "//=": ifloordiv,
    "%=": imod,
}


@pytest.mark.parametrize("way", WAYS)
def test_of_features(way):
    torch.manual_seed(0)
    model = Custom(
        lambda m, x: m.head(WAYS[way](m.body(x)).tanh()), body=linear(3, 4), head=linear(4, 3)
    ).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns where it runs samples one after the other
        scores = score_pool(model, [x], scheme=oracle.SCHEMES, progress=False)
    table = oracle.norms(model, oracle.ones(x))
    for scheme in oracle.SCHEMES:
        assert_close_relative(scores[scheme], table.scores(scheme), 1e-9, scheme)


@pytest.mark.parametrize("way", ["clamp_", "cumsum_", "%="])
def test_in_place_it_is(way):
    """What else holds the tensor sees the change."""

    def forward(m, x):
        h = m.body(x)
        half = h[:, :2]
        WAYS[way](h)
        return m.head(torch.cat([h[:, 2:], half], 1).tanh())

    torch.manual_seed(0)
    model = Custom(forward, body=linear(3, 4), head=linear(4, 3)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    scores = score_pool(model, [x], progress=False, verify=False)
    assert_close_relative(scores, oracle.scores(model, oracle.ones(x)), 1e-9)
