"""Losses that are small differences of large numbers, of what is not made float64 with the model.

A teacher in the closure of a loss stays in float32, so that float64 cannot tell rounding from
anything else; trials by rounding do.
"""

import copy
import warnings

import pytest
import torch
from fastgradnorm_kernels.functorch import is_transforming
from torch import nn
from torch.nn import functional as F

from fastgradnorm import UnsupportedModelError, VerificationError, score_pool
from tests.support.losses import score


def student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 5)).eval(), torch.randn(6, 12)


def near(model, distance):
    torch.manual_seed(1)
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter += distance * torch.randn_like(parameter)
    return teacher.requires_grad_(False)


LOSSES = {
    "divergence": lambda z, t: F.kl_div(z.log_softmax(-1), t.softmax(-1), reduction="batchmean"),
    "squares": F.mse_loss,
    "cosine": lambda z, t: 1 - F.cosine_similarity(z, t).mean(),
}


@pytest.mark.slow
@pytest.mark.parametrize("distance", [0.0, 1e-5, 1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("name", LOSSES)
def test_a_student_near_its_teacher(name, distance):
    model, x = student()
    teacher, loss = near(model, distance), LOSSES[name]
    wide, exact = copy.deepcopy(teacher).double(), []
    precise = copy.deepcopy(model).double()
    for row in x.double().split(1):
        value = loss(precise(row), wide(row))
        gradients = torch.autograd.grad(value, list(precise.parameters()))
        exact.append(torch.stack([g.norm() for g in gradients]).norm())
    found = score(model, [x[:4], x[4:]], loss=lambda z, batch: loss(z, teacher(batch)))
    # What rounding of the model's outputs leaves of the gradient.
    assert torch.allclose(found, torch.stack(exact), rtol=1e-5, atol=2e-6)


class Mixing(nn.Module):
    def forward(self, z):
        return z + 1e-3 * z.mean(0)


def test_models_that_mix_samples_are_still_refused():
    model, x = student()
    teacher = near(model, 0.5)
    mixing = nn.Sequential(model, Mixing()).eval()
    with pytest.raises(UnsupportedModelError, match="other values in a batch than alone"):
        score(mixing, [x], loss=lambda z, batch: F.mse_loss(z, teacher(batch)))


@pytest.mark.slow
@pytest.mark.parametrize("distance", [1e-2, 0.5])
def test_what_is_wrong_is_still_told(distance, monkeypatch):
    """Trials do not excuse a gradient that is off by a thousandth."""
    model, x = student()
    teacher = near(model, distance)

    class Off(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(z):
            return z.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, g):
            # The engine is the one that is wrong, which pulls back under a transform.
            inside = is_transforming()
            return g * (1.01 if inside else 1.0)

    def loss(z, batch):
        return F.mse_loss(Off.apply(z), teacher(batch))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((VerificationError, UnsupportedModelError)):
            score_pool(model, [x], loss=loss, progress=False)
