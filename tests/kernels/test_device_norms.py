"""The forms for GPUs without kernels, on whatever device there is, against float64."""

import pytest
import torch
from fastgradnorm_kernels import _device_norms, choose_form, reference
from fastgradnorm_kernels.geometry import Geometry

from tests.support.asserts import assert_close_relative
from tests.support.kernel_support import conv_oracle, linear_oracle, randn

# N, K, T, I, O
SHAPES = {
    "closed form": (3, 2, 1, 6, 5),
    "direct": (3, 2, 40, 6, 5),
    "ghost in float64": (3, 4, 2, 300, 200),
    "ghost where direct is not dearer": (2, 3, 8, 20, 30),
    "one sample": (1, 1, 7, 5, 3),
    "none": (0, 2, 7, 5, 3),
}


@pytest.mark.parametrize("block", [1 << 26, 100, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("name", SHAPES)
def test_weights(name, dtype, block, monkeypatch):
    monkeypatch.setattr(_device_norms, "_BLOCK", block)
    N, K, T, I, O = SHAPES[name]
    a, g = randn(N, T, I, dtype=dtype), randn(N, K, T, O, dtype=dtype)
    actual = _device_norms.weight_sq_norm(a, g)
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close_relative(actual, linear_oracle(a, g), 1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("layout", ["positions last", "cotangents first"])
@pytest.mark.parametrize("name", SHAPES)
def test_layouts(name, layout):
    N, K, T, I, O = SHAPES[name]
    a, g = randn(N, T, I), randn(N, K, T, O)
    g = g.mT.contiguous().mT if layout == "positions last" else g.transpose(0, 1).contiguous()
    g = g if layout == "positions last" else g.transpose(0, 1)
    assert_close_relative(_device_norms.weight_sq_norm(a, g), linear_oracle(a, g), 1e-5)


@pytest.mark.parametrize("shape", [(4, 12, 600, 500), (3, 6, 900, 40), (1, 2, 300, 200)])
def test_terms_that_cancel(shape):
    K, T, I, O = shape
    assert choose_form(T, I, O, K) == "ghost"
    a = randn(2, 1, I) + 0.01 * randn(2, T, I)
    g = randn(2, K, T, O)
    g -= g.mean(2, keepdim=True)
    lost = reference.ghost_sq_norm(a, g)
    assert (lost.sq_norm < 1e-2 * lost.uncancelled).all()
    actual = _device_norms.weight_sq_norm(a, g)
    assert_close_relative(actual.sqrt(), linear_oracle(a, g).sqrt(), 1e-5)


CONVOLUTIONS = {
    "1-D": ((6, 11), (4, 5), ((3,), (2,), (1,), (2,)), 2),
    "2-D": ((6, 9, 8), (4, 4, 4), ((3, 2), (2, 2), (0, 0), (1, 1)), 2),
    "3-D": ((4, 5, 4, 4), (6, 5, 4, 4), ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)), 1),
    "depthwise": ((6, 9, 8), (6, 9, 8), ((3, 3), (1, 1), (1, 1), (1, 1)), 6),
    "pointwise, stride": ((6, 9, 8), (4, 5, 4), ((1, 1), (2, 2), (0, 0), (1, 1)), 1),
    "whole": ((6, 3, 3), (4, 1, 1), ((3, 3), (1, 1), (0, 0), (1, 1)), 1),
    "wide": ((150, 4, 4), (128, 2, 2), ((3, 3), (1, 1), (0, 0), (1, 1)), 1),
}


@pytest.mark.parametrize("block", [1 << 26, 1])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, block, monkeypatch):
    monkeypatch.setattr(_device_norms, "_BLOCK", block)
    x_shape, g_shape, geometry, groups = CONVOLUTIONS[name]
    x, g = randn(3, *x_shape), randn(3, 2, *g_shape)
    actual = _device_norms.conv_sq_norm(x, g, Geometry(*geometry), groups)
    assert_close_relative(actual, conv_oracle(x, g, geometry, groups), 1e-5)
