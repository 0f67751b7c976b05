"""Weights and buffers that are the same for all samples are seen to be, wherever they were made."""

from types import SimpleNamespace

import pytest
import torch
from fastgradnorm_kernels import _backends
from fastgradnorm_kernels.geometry import Geometry
from torch import nn
from torch.func import vjp, vmap

from fastgradnorm import score_pool
from fastgradnorm._operations import fused_norms
from fastgradnorm._operations.folded_convolutions import prefers_channels_last
from fastgradnorm._operations.single_level import cast, is_frozen, plain


def _frozen_within(make):
    """Whether what `make` returns within the engine's transforms is frozen, and its dtype."""
    found = []

    def per_sample(x):
        tensor = make(x)
        found.append((is_frozen(tensor), tensor.dtype))
        return x.square()

    vmap(lambda x: vjp(per_sample, x)[0])(torch.ones(2, 3))
    return found[0]


def test_frozen_weights_stay_so_when_autocast_narrows_them():
    weight = torch.randn(3)
    assert _frozen_within(lambda x: cast(weight, torch.bfloat16)) == (True, torch.bfloat16)
    assert _frozen_within(lambda x: cast(weight, torch.float32)) == (True, torch.float32)
    assert _frozen_within(lambda x: cast(x, torch.bfloat16)) == (False, torch.bfloat16)
    trained = torch.randn(3, requires_grad=True)
    assert _frozen_within(lambda x: cast(trained, torch.bfloat16)) == (False, torch.bfloat16)
    assert cast(trained, torch.float64).requires_grad


@pytest.mark.parametrize(
    "dtype, precision, groups, expected",
    [
        (torch.bfloat16, "ieee", 1, True),
        (torch.float16, "none", 1, True),
        (torch.float32, "tf32", 1, True),
        (torch.float32, "ieee", 1, False),  # 8 channels: cuDNN's kernels have them first
        (torch.float64, "tf32", 1, False),
        (torch.bfloat16, "tf32", 8, False),
    ],
)
def test_channels_are_last_on_a_gpu_where_matrix_units_multiply(
    dtype, precision, groups, expected, monkeypatch
):
    cudnn = SimpleNamespace(conv=SimpleNamespace(fp32_precision=precision))
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    on_gpu = SimpleNamespace(is_cuda=True, dtype=dtype, shape=(1, 8, 2, 2))
    geometry = Geometry((1, 1), (1, 1), (0, 0), (1, 1))
    weight = torch.zeros(8, 8 // groups, 1, 1)
    assert prefers_channels_last(on_gpu, weight, geometry, groups) == expected


@pytest.mark.parametrize(
    "outputs, inputs, expected", [(16, 8, True), (16, 3, False), (8, 16, False)]
)
def test_channels_are_last_on_a_gpu_where_exact_products_are_made(
    outputs, inputs, expected, monkeypatch
):
    cudnn = SimpleNamespace(conv=SimpleNamespace(fp32_precision="ieee"))
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    monkeypatch.setattr(_backends, "is_exact_on_matrix_units", lambda x: True)
    on_gpu = SimpleNamespace(is_cuda=True, dtype=torch.float32, shape=(1, inputs, 2, 2))
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    weight = torch.zeros(outputs, inputs, 3, 3)
    assert prefers_channels_last(on_gpu, weight, geometry, 1) == expected


def test_batch_norms_of_copied_buffers_stay_light(monkeypatch):
    """Each run copies the model's buffers, within the transforms."""
    calls = []
    original = fused_norms._scaled
    monkeypatch.setattr(fused_norms, "_scaled", lambda *a: calls.append(1) or original(*a))
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    layers[1].running_var.uniform_(0.5, 2)
    scores = score_pool(layers.eval(), [torch.randn(4, 3, 8, 8)], progress=False, verify=True)
    assert calls
    assert scores.isfinite().all()


def test_wrappers_that_follow_no_derivative_are_looked_into():
    buffer, trained = torch.randn(3), torch.randn(3, requires_grad=True)

    def frozen(make):
        return _frozen_within(lambda x: plain(make(x)))[0]

    assert frozen(lambda x: buffer.clone())
    assert frozen(lambda x: buffer)
    assert not frozen(lambda x: x)
    assert not frozen(lambda x: x.detach())  # of each sample its own
    assert not frozen(lambda x: buffer.clone().add(x))
    assert not frozen(lambda x: trained)
