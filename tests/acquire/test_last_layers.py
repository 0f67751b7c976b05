"""Whatever makes the logits, `acquire` looks at what that is given, or says that it cannot."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import acquire, score_pool
from fastgradnorm._gather import Wants, gather
from fastgradnorm._options import Options
from tests.support import oracle
from tests.support.asserts import assert_close_relative

X = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    """A body, and a last layer of any kind."""

    def __init__(self, last, **parameters):
        super().__init__()
        self.body, self.last = nn.Linear(5, 8), last
        for name, shape in parameters.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def features(self, x):
        return self.body(x).tanh()

    def forward(self, x):
        return self.last(self, self.features(x))


LAST = {
    "product": lambda: Model(lambda m, h: h @ m.w, w=(8, 4)),
    "product from the left": lambda: Model(lambda m, h: m.w @ h[:, :, None], w=(4, 8)),
    "mm": lambda: Model(lambda m, h: h.mm(m.w), w=(8, 4)),
    "addmm": lambda: Model(lambda m, h: torch.addmm(m.b, h, m.w), w=(8, 4), b=(4,)),
    "einsum": lambda: Model(lambda m, h: torch.einsum("nd,cd->nc", h, m.w), w=(4, 8)),
    "einsum the other way": lambda: Model(lambda m, h: torch.einsum("dc,nd->nc", m.w, h), w=(8, 4)),
    "layer norm": lambda: Model(lambda m, h: F.layer_norm(h, [8], m.w, m.b), w=(8,), b=(8,)),
    "group norm": lambda: Model(lambda m, h: F.group_norm(h, 2, m.w, m.b), w=(8,), b=(8,)),
    "linear": lambda: Model(lambda m, h: F.linear(h, m.w, m.b), w=(4, 8), b=(4,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("params", ["last_layer", "all"])
@pytest.mark.parametrize("name", LAST)
def test_what_the_last_layer_is_given(name, params):
    torch.manual_seed(1)
    model = LAST[name]().eval()
    asked = Options(params=params, progress=False)
    found = gather(model, list(X.split(7)), asked, Wants("herding", features=True))
    expected = model.features(X).detach()
    torch.testing.assert_close(found.columns["features"], expected, rtol=1e-4, atol=1e-5)
    chosen = acquire(model, [X], 4, params=params, labelled=[1], progress=False)
    keep = (lambda name: not name.startswith("body")) if params == "last_layer" else bool
    exact = oracle.scores(model, oracle.ones(X), keep=keep)
    assert_close_relative(chosen.scores.values.double(), exact, 1e-4)
    assert len({*chosen}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["auto", "coreset", "bait"])
def test_a_layer_that_is_given_no_features_is_told(strategy):
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten()).eval()
    ids = torch.arange(9)[:, None]
    with pytest.raises(ValueError, match=r"`space` must be 'sketch'.*last layer is `embedding`"):
        acquire(model, [ids], 3, strategy=strategy, progress=False)
    assert len(acquire(model, [ids], 3, space="sketch", progress=False)) == 3
    chosen = acquire(model, [ids], 3, strategy="margin", progress=False)
    exact = score_pool(model, [ids], params="last_layer", progress=False)
    assert torch.equal(chosen.scores.values, exact)
