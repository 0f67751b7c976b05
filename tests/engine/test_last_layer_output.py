"""Closed forms of the last layer hold where its output is what the model returns, not elsewhere."""

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, naive_score_pool
from fastgradnorm._engine import outcome
from tests.support.asserts import assert_close_relative


def left_alone(z):
    return z


def viewed(z):
    return z.view(len(z), -1).unsqueeze(0)[0]


def copied(z):
    return z.clone()


def changed_in_place(z):
    return z.mul_(2)


def changed_through_a_view(z):
    z[:, 0].add_(1)
    return z


def changed_through_another_name(z):
    z.view(len(z), -1)[:, 1:].zero_()
    return z


def another(z):
    return z + torch.arange(3.0)


class Model(nn.Module):
    """Its output changes where samples are large: not on the first batch, which is planned from."""

    def __init__(self, change):
        super().__init__()
        self.body, self.head, self.change = nn.Linear(4, 5), nn.Linear(5, 3), change

    def forward(self, x):
        z = self.head(self.body(x).tanh())
        return self.change(z) if bool(x.sum() > 50) else z


SMALL, LARGE = torch.randn(3, 4), torch.randn(3, 4) + 20


@pytest.mark.parametrize(
    "change",
    [
        left_alone,
        viewed,
        copied,
        changed_in_place,
        changed_through_a_view,
        changed_through_another_name,
        another,
    ],
    ids=lambda change: change.__name__,
)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_change_on_a_later_batch_is_noticed(change, temperature):
    model = Model(change)
    options = {"params": "last_layer", "temperature": temperature}
    scorer = GradNormScorer(model, progress=False, **options)
    found = torch.cat(list(scorer.stream([SMALL, LARGE])))
    expected = torch.cat([naive_score_pool(model, [x], **options) for x in (SMALL, LARGE)])
    assert_close_relative(found, expected, 1e-5)


@pytest.mark.parametrize("change", [left_alone, viewed])
def test_no_value_is_read_where_memory_tells(change, monkeypatch):
    model = Model(change)
    monkeypatch.delattr(outcome, "_agree")
    scorer = GradNormScorer(model, progress=False, params="last_layer", verify=False)
    assert len(torch.cat(list(scorer.stream([SMALL, LARGE])))) == 6


@pytest.mark.parametrize(
    "change",
    [viewed, copied, changed_in_place, changed_through_a_view, changed_through_another_name],
    ids=lambda change: change.__name__,
)
def test_a_change_that_is_always_made_is_noticed(change):
    model = Model(change)
    options = {"params": "last_layer"}
    found = GradNormScorer(model, progress=False, **options).score_batch(LARGE)
    assert_close_relative(found, naive_score_pool(model, [LARGE], **options), 1e-5)
