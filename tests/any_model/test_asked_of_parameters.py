"""What a model asks its parameters, or writes of a tensor's numbers, to decide what it does."""

import pytest
import torch
from torch import nn

from fastgradnorm import UnsupportedModelError, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

FLAGS = {
    "counts": lambda m, h: h * (2 if m.body.weight.requires_grad else 1),
    "frozen": lambda m, h: h * (2 if m.frozen.weight.requires_grad else 1),
    "how many": lambda m, h: h * sum(p.numel() for p in m.parameters() if p.requires_grad) / 9,
    "leaf": lambda m, h: h * (2 if m.body.weight.is_leaf else 1),
    "gradient": lambda m, h: h * (2 if m.head.weight.grad is None else 1),
}
TEXTS = {
    "str": lambda m, h: h * (2 if "-" in str(h.detach().sum()) else 1),
    "repr": lambda m, h: h * (2 if "-" in repr(h.detach()[0, 0]) else 1),
    "format": lambda m, h: h * (2 if f"{h.detach().sum():.1f}"[0] == "-" else 1),
    "table": lambda m, h: h * {"tensor(True)": 2, "tensor(False)": 1}[str(h.detach().sum() > 0)],
}
X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))


def made(way):
    torch.manual_seed(0)
    frozen = linear(2, 2).requires_grad_(False)
    return Custom(
        lambda m, x: m.head(way(m, m.body(x).tanh())),
        body=linear(4, 4),
        frozen=frozen,
        head=linear(4, 3),
    )


@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("way", FLAGS)
def test_flags_are_the_callers(way, params):
    model = made(FLAGS[way])
    kept = (lambda name: name.startswith("head")) if params == "last_layer" else (lambda name: True)
    found = score_pool(model, [X], params=params, progress=False)
    assert_close_relative(found, oracle.scores(model, oracle.ones(X), keep=kept), 1e-5)


@pytest.mark.filterwarnings("ignore:This model cannot run under vmap")
@pytest.mark.parametrize("way", TEXTS)
def test_texts_are_of_a_sample(way):
    model = made(TEXTS[way])
    found = score_pool(model, [X], verify=False, progress=False)
    assert_close_relative(found, oracle.scores(model, oracle.ones(X)), 1e-5)


def test_parameters_that_a_model_makes_while_it_runs():
    def late(m, h):
        if not hasattr(m, "gain"):
            m.gain = nn.Parameter(h.new_full((4,), 2.0))
        return h * m.gain

    model = made(late)
    with pytest.raises(UnsupportedModelError, match=r"`gain`, which it makes while it runs"):
        score_pool(model, [X], progress=False)
    model(X)
    found = score_pool(model, [X], progress=False)
    assert_close_relative(found, oracle.scores(model, oracle.ones(X)), 1e-5)
