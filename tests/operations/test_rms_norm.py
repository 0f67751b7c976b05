"""RMS norms, which GPUs have a kernel for that vmap has no rule for."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import acquire, naive_score_pool, score_pool
from fastgradnorm._operations import norms, table

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
@pytest.mark.parametrize(
    ("dtype", "weight", "eps"),
    [*itertools.product(DTYPES, (None, "alike", torch.float32), (None, 0.1))],
)
@pytest.mark.parametrize("shape", [(5,), (4, 5)])
def test_the_formula_is_pytorchs(dtype, weight, eps, shape):
    x = torch.randn(3, 4, 5).to(dtype)
    kind = dtype if weight == "alike" else weight
    scale = None if kind is None else torch.randn(shape).to(kind)
    found = norms.rms_norm_formula(x, shape, scale, eps)
    exact = F.rms_norm(x, shape, scale, eps)
    assert found.dtype == exact.dtype
    assert torch.equal(found, exact)


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.gain = function, nn.Parameter(torch.randn(6))

    def forward(self, x):
        return self.function(x, (6,), self.gain)


@pytest.mark.parametrize(
    ("function", "make"),
    [
        (F.rms_norm, lambda: nn.RMSNorm(6)),
        (F.rms_norm, lambda: nn.RMSNorm(6, eps=0.1)),
        (F.rms_norm, lambda: nn.RMSNorm((4, 6))),
        (F.rms_norm, lambda: nn.RMSNorm(6, elementwise_affine=False)),
        (F.rms_norm, lambda: Functional(F.rms_norm)),
        (torch.rms_norm, lambda: Functional(torch.rms_norm)),
    ],
)
def test_scores_by_the_formula(monkeypatch, function, make):
    called = []

    def formula(*args, **named):
        called.append(function)
        return norms.rms_norm_formula(*args, **named)

    monkeypatch.setitem(table.TABLE, function, replace(table.TABLE[function], form=formula))
    model = nn.Sequential(nn.Linear(6, 6), make(), nn.Flatten(), nn.Linear(24, 3)).eval()
    x = torch.randn(5, 4, 6)
    exact = naive_score_pool(model.double(), [x.double()])
    assert called == []
    found = score_pool(model.float(), [x], progress=False)
    assert called
    torch.testing.assert_close(found.double(), exact.double(), rtol=1e-5, atol=0)


class OnDevice(torch.Tensor):
    """As far as it says."""

    is_cuda = True


@pytest.mark.parametrize("on_device", [False, True])
def test_the_formula_is_for_gpus(monkeypatch, on_device):
    monkeypatch.setattr(norms, "rms_norm_formula", lambda *args: "the formula")
    x = torch.randn(3, 4)
    found = norms.rms_norm(x.as_subclass(OnDevice) if on_device else x, (4,))
    assert isinstance(found, str) == on_device


@pytest.mark.slow
def test_features_of_a_last_layer_called_either_way():
    chosen = []
    for function in (F.rms_norm, torch.rms_norm):
        torch.manual_seed(0)
        model, x = (
            nn.Sequential(nn.Linear(5, 6), nn.Tanh(), Functional(function)),
            torch.randn(9, 5),
        )
        chosen.append(acquire(model.eval(), [x], 3, progress=False).indices)
    assert torch.equal(*chosen)
