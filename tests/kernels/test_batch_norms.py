"""Norms of batch norms by running statistics, in every layout, against autograd in float64."""

import pytest
import torch
from fastgradnorm_kernels import _batch_norms, operators
from torch.nn import functional as F

from fastgradnorm import score_pool
from tests.support.asserts import assert_close_relative

EPS = 1e-3
SHAPES = {"1-D": (4, 9), "2-D": (6, 5, 4), "3-D": (3, 2, 3, 4), "flat": (7,)}


def _exact(x, g, mean, var):
    scale, shift = torch.ones_like(var).requires_grad_(), torch.zeros_like(var).requires_grad_()
    found, x, g = [], x.contiguous(), g.contiguous()  # PyTorch's own gradients mix up layouts
    for sample, cotangents in zip(x, g, strict=True):
        y = F.batch_norm(sample[None], mean, var, scale, shift, False, 0.0, EPS)
        for each in cotangents:
            grads = torch.autograd.grad(y, (scale, shift), each[None], retain_graph=True)
            found.append(torch.stack([grad.square().sum() for grad in grads]))
    return torch.stack(found).view(*g.shape[:2], 2)


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["plain", "last", "mixed"])
@pytest.mark.parametrize("name", SHAPES)
def test_scale_and_shift(name, layout, dtype, large, monkeypatch):
    monkeypatch.setattr(_batch_norms, "_LARGE", 1 if large else 1 << 40)
    shape = SHAPES[name]
    x, g = (torch.randn(3, *shape) + 1).to(dtype), torch.randn(3, 2, *shape).to(dtype)
    if len(shape) == 3 and layout != "plain":
        x = x.contiguous(memory_format=torch.channels_last)
        g = g if layout == "mixed" else g.movedim(2, -1).contiguous().movedim(-1, 2)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    mean, var = torch.randn(shape[0], dtype=wide), torch.rand(shape[0], dtype=wide) + 0.5
    exact = _exact(x.double(), g.double(), mean.double(), var.double())
    added_wide = dtype == torch.float32 or (large and len(shape) > 1)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5 if added_wide else 2e-2
    found = _batch_norms.batch_norm_sq_norms(x, g, mean, var, EPS)
    assert found.dtype == wide
    assert_close_relative(found, exact, tolerance)


def test_many_positions_lose_no_digits():
    x, g = torch.randn(1, 4, 160, 160) + 3, torch.randn(1, 1, 4, 160, 160) + 0.1
    mean, var = torch.full((4,), 3.0), torch.ones(4)
    exact = _exact(x.double(), g.double(), mean.double(), var.double())
    assert x.numel() >= _batch_norms._LARGE
    for last in (False, True):
        x = x.contiguous(memory_format=torch.channels_last) if last else x
        found = _batch_norms.batch_norm_sq_norms(x, g, mean, var, EPS)
        assert_close_relative(found, exact, 1e-5)


@pytest.mark.parametrize("frames", [1, 3])
def test_scores_use_it_for_samples_of_one_image(frames, monkeypatch):
    """Images that a model folds into its batch add to one gradient: those are added up apart."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.norm(self.conv(x.flatten(0, 1))).relu().mean((2, 3))
            return y.view(len(x), -1, 4).sum(1)

    monkeypatch.setattr(_batch_norms, "_LARGE", 1)
    calls, inner = [], operators.batch_norm_gradients
    monkeypatch.setattr(
        operators, "batch_norm_gradients", lambda *given: calls.append(1) or inner(*given)
    )
    model = Model().double().eval()
    model.norm.running_mean.normal_()
    x = torch.randn(4, frames, 2, 6, 6, dtype=torch.float64)
    found = score_pool(model, [x], verify=False, progress=False)
    operators_used = bool(calls)
    exact = []
    for sample in x:
        z = model(sample[None])[0]
        p = z.detach().softmax(0)
        norms = []
        for c in range(4):
            loss = -z.log_softmax(0)[c]
            grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            norms.append(torch.cat([grad.flatten() for grad in grads]).norm())
        exact.append((p * torch.stack(norms)).sum())
    assert_close_relative(found, torch.stack(exact), 1e-9)
    assert operators_used == (frames == 1)
