"""Sketches of models that vmap cannot run, one by one with plain autograd."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import SlowPathWarning, gradient_sketch
from tests.support.cases import Custom


@pytest.mark.slow
@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("norms", [False, True])
def test_they_are_what_others_are(norms, params):
    torch.manual_seed(0)

    def outside(m, x):
        return m.head(m.body(torch.from_numpy(x.detach().numpy())).tanh())

    model = Custom(outside, body=nn.Linear(3, 4), head=nn.Linear(4, 2))
    plain = Custom(lambda m, x: m.head(m.body(x).tanh()), body=model.body, head=model.head)
    options = {"norms": norms, "params": params, "group_by": "module", "progress": False}
    x, metric = torch.randn(3, 3), None
    if params == "all":
        metric = torch.optim.Adam(model.parameters())
        F.cross_entropy(model(x), torch.tensor([0, 1, 1])).backward()
        metric.step()
    with pytest.warns(SlowPathWarning, match="sketched one by one"):
        found = gradient_sketch(model, [x], 4, metric=metric, **options)
    expected = gradient_sketch(plain, [x], 4, metric=metric, **options)
    parts = zip(found, expected, strict=True) if norms else [(found, expected)]
    for a, b in parts:
        assert a.keys() == b.keys()
        for group in b:
            torch.testing.assert_close(a[group], b[group])
