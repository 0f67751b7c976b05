"""Losses that compare samples with each other, which have no gradient a sample.

Of one sample they are zero: scores of zero in silence, where the first two samples told nothing
either, as two of one class.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import (
    BatchDependenceWarning,
    UnsupportedModelError,
    gradient_dots,
    gradient_sketch,
    score_pool,
)
from tests.support.asserts import assert_close_relative
from tests.support.losses import RTOL, score, truth

X, Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) // 2


def contrastive(z, y):
    z = F.normalize(z, dim=1)
    alike = (z @ z.mT).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
    return F.cross_entropy(alike, (torch.arange(len(z)) ^ 1).clamp_max(len(z) - 1))


def hardest_triplets(z, y):
    distance, same = torch.cdist(z, z), y[:, None] == y
    far = (distance * same).max(1).values
    near = (distance + 1e3 * same).min(1).values
    return F.relu(far - near + 1).mean()


def under_the_curve(z, y):
    return F.softplus(z[y != 0][:, 0] - z[y == 0][:, :1]).mean()


def in_order(z, y):
    return F.softplus(z[1:, 0] - z[:-1, 0]).mul(y[1:] - y[:-1]).sum()


COMPARING = [contrastive, hardest_triplets, under_the_curve, in_order]


def made():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))


class Named(nn.Module):
    """What it returns has no logits."""

    def __init__(self):
        super().__init__()
        self.body = made()

    def forward(self, x):
        return {"embedding": self.body(x)}


@pytest.mark.parametrize("loss", COMPARING)
@pytest.mark.parametrize("function", [score_pool, gradient_sketch])
def test_they_are_refused(loss, function):
    with pytest.raises(UnsupportedModelError, match="`loss` must not mix samples"):
        function(made(), [(X, Y)], loss=lambda o, b: loss(o, b[1]), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("loss", COMPARING)
def test_outputs_of_any_kind(loss):
    model = Named()
    ones = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    options = {"loss": lambda o, b: loss(o["embedding"], b[1]), "progress": False}
    with pytest.raises(UnsupportedModelError, match="`loss` must not mix samples"):
        score_pool(model, [(X, Y)], **options)
    with pytest.raises(UnsupportedModelError, match="`loss` must not mix samples"):
        gradient_dots(model, [(X, Y)], ones, **options)


def test_a_model_whose_own_loss_compares():
    class Own(Named):
        def forward(self, x, labels):
            return {"loss": hardest_triplets(self.body(x), labels)}

    with pytest.raises(UnsupportedModelError, match="`loss` must not mix samples"):
        score(Own(), [(X, Y)], loss="model")


def test_what_compares_beside_what_does_not():
    def both(output, batch):
        return F.cross_entropy(output, batch[1]) + hardest_triplets(output, batch[1])

    with pytest.warns(BatchDependenceWarning, match="only a smaller one"):
        score(made(), [(X, Y)], loss=both)


def hinge(z, y):
    return F.relu(made()(X)[:, 0].median().item() - z[:, 0]).mean()


def of_some(z, y):
    return F.cross_entropy(z, y, ignore_index=0, reduction="sum")


def least_squares(z, y):
    return (z - z.detach()).square().mean()


@pytest.mark.parametrize("loss", [hinge, of_some, least_squares])
def test_samples_without_a_gradient_compare_nothing(loss):
    model, order = made(), made()(X)[:, 0].argsort(descending=True)
    pair = X[order], Y
    found = score(model, [pair], loss=lambda o, b: loss(o, b[1]))
    expected = truth(model, [pair], lambda m, s: loss(m(s[0]), s[1]))
    assert bool((expected[:2] == 0).all()) and torch.equal(found == 0, expected == 0)
    assert_close_relative(found[expected > 0], expected[expected > 0], RTOL)
