"""Classes that are ruled out by logits of minus infinity: no score is undefined."""

import pytest
import torch
from torch import nn

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import MLP

RTOL = 1e-5


def positions():
    return nn.Sequential(nn.Conv1d(2, 4, 1), nn.Tanh(), nn.Conv1d(4, 3, 1))


@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("allowed", [1, 2, 3])
def test_classes_that_are_ruled_out_by_infinite_logits(params, allowed):
    """The scores of the classes that are left; of one alone there is nothing to learn."""
    model, x = MLP(classes=5), torch.randn(6, 10)
    out = torch.arange(5) >= allowed

    def ruled_out(model, batch):
        return model(batch).masked_fill(out, -torch.inf)

    options = {"scheme": oracle.SCHEMES, "params": params, "progress": False}
    actual = score_pool(model, [x], forward=ruled_out, **options)
    if allowed == 1:
        assert all(scores.eq(0).all() for scores in actual.values())
        return
    only = (lambda n: n.startswith("head")) if params == "last_layer" else (lambda n: True)
    table = oracle.norms(model, oracle.ones(x), call=lambda m, s: m(s)[:, :allowed])
    for scheme in oracle.SCHEMES:
        assert_close_relative(actual[scheme], table.scores(scheme, keep=only), RTOL, scheme)


@pytest.mark.slow
def test_positions_of_which_all_but_one_class_are_ruled_out():
    model, x = positions(), torch.randn(4, 2, 5)

    def ruled_out(model, batch):
        z = model(batch)
        return torch.cat([z[:, :1], z[:, 1:].masked_fill(batch[:, :1] > 0, -torch.inf)], 1)

    options = {"scheme": oracle.SCHEMES, "forward": ruled_out, "progress": False}
    actual = score_pool(model, [x], **options)
    assert all(scores.isfinite().all() for scores in actual.values())
    assert score_pool(model, [x.abs()], **options)["entropy"].eq(0).all()
