"""Gradients that cancel, as those of a student near its teacher, have only rounding to disagree by.

A loss is divided by its own size before it is pulled back. Of one that cancels that is another size
in each pass, and what is compared must not depend on it.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import VerificationError, gradient_dots, gradient_sketch, mean_gradient
from fastgradnorm._directions import dots

LOSSES = {
    "divergence": lambda z, t: F.kl_div(z.log_softmax(-1), t.softmax(-1), reduction="batchmean"),
    "squares": F.mse_loss,
}


def student(distance):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 5)).eval()
    x, teacher = torch.randn(6, 12), copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter += distance * torch.randn_like(parameter)
    return model, [x[:4], x[4:]], teacher.requires_grad_(False)


def exact(model, batches, teacher, loss):
    precise, wide = copy.deepcopy(model).double(), copy.deepcopy(teacher).double()
    found = []
    for row in torch.cat(batches).double().split(1):
        value = loss(precise(row), wide(row))
        gradients = torch.autograd.grad(value, list(precise.parameters()))
        found.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(found)


@pytest.mark.slow
@pytest.mark.parametrize("distance", [0.0, 1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("name", LOSSES)
def test_a_student_near_its_teacher(name, distance):
    model, batches, teacher = student(distance)
    gradients = exact(model, batches, teacher, LOSSES[name])
    direction = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    flat = torch.cat([v.double().flatten() for v in direction.values()])
    options = {"loss": lambda z, batch: LOSSES[name](z, teacher(batch)), "progress": False}
    noise = 2e-6  # what rounding of the outputs leaves of a gradient
    found = gradient_dots(model, batches, direction, **options)[:, 0].double()
    assert torch.allclose(found, gradients @ flat, rtol=1e-4, atol=noise * float(flat.norm()))
    mean = mean_gradient(model, batches, **options)
    whole = torch.cat([g.double().flatten() for g in mean.values()])
    assert torch.allclose(whole, gradients.mean(0), rtol=1e-4, atol=noise)
    _, norms = gradient_sketch(model, batches, 8, norms=True, **options)
    assert torch.allclose(norms.double(), gradients.norm(dim=1), rtol=1e-4, atol=noise)
    cosines = gradient_dots(model, batches, direction, cosine=True, **options)[:, 0].double()
    if distance >= 1e-4:
        sizes = gradients.norm(dim=1) * flat.norm()
        assert torch.allclose(cosines, gradients @ flat / sizes, atol=2e-2)


@pytest.mark.parametrize("distance", [1e-4, 1e-2, 0.5])
@pytest.mark.parametrize("cosine", [False, True])
def test_products_of_another_gradient_are_still_told(distance, cosine, monkeypatch):
    model, batches, teacher = student(distance)
    direction = {"0.weight": torch.randn(8, 12), "2.bias": torch.ones(5)}
    given = {"cosine": cosine, "loss": lambda z, batch: F.mse_loss(z, teacher(batch))}
    true = dots.sample_dots

    def off(*args, **kwargs):
        found = true(*args, **kwargs)
        return found * torch.linspace(1.1, 1.0, found.shape[-1])

    monkeypatch.setattr(dots, "sample_dots", off)
    with pytest.raises(VerificationError, match="product with direction"):
        gradient_dots(model, batches, direction, progress=False, **given)
