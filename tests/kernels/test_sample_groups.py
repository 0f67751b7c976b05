"""Weight norms of convolutions whose groups are the samples, and where that form is used."""

import pytest
import torch
from fastgradnorm_kernels import (
    _direct,
    _matmul,
    _products,
    _sample_groups,
    _torch_norms,
    operators,
    reference,
)
from fastgradnorm_kernels.geometry import Geometry

from tests.support.asserts import assert_close_relative
from tests.support.kernel_support import conv_oracle, linear_oracle

# Channels, outputs, input size, (kernel, stride, padding, dilation).
CASES = [
    pytest.param(3, 4, (40,), ((9,), (1,), (4,), (1,)), id="1d"),
    pytest.param(16, 17, (31,), ((4,), (2,), (3,), (3,)), id="1d, every option"),
    pytest.param(5, 3, (9, 8), ((3, 3), (1, 1), (1, 1), (1, 1)), id="2d"),
    pytest.param(3, 5, (8, 8), ((3, 3), (2, 2), (1, 1), (1, 1)), id="last pixels are skipped"),
    pytest.param(4, 2, (9, 12), ((5, 3), (2, 3), (2, 0), (1, 2)), id="2d, every option"),
    pytest.param(3, 4, (5, 6, 7), ((3, 3, 3), (1, 2, 1), (1, 1, 0), (1, 1, 2)), id="3d"),
    pytest.param(20, 16, (4, 4, 4), ((2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1)), id="3d, wide"),
]


@pytest.fixture(autouse=True)
def on_onednn(monkeypatch):
    if not (_matmul._has_onednn() and operators.has_onednn_linear()):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(_matmul, "has_fast_mkl", lambda: False)


def _pair(channels, outputs, size, geometry, N=3, K=2):
    out = Geometry(*geometry).out(size)
    return torch.randn(N, channels, *size) + 0.5, torch.randn(N, K, outputs, *out) + 0.5


def _channels_last(t, dim):
    return t.movedim(dim, -1).contiguous().movedim(-1, dim)


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize("layout", ["plain", "channels last", "cotangents first"])
@pytest.mark.parametrize("channels, outputs, size, geometry", CASES)
def test_samples_as_groups(channels, outputs, size, geometry, layout, K, at_once, monkeypatch):
    weight = channels * outputs * torch.Size(geometry[0]).numel()
    monkeypatch.setattr(_sample_groups, "_BLOCK", at_once * weight)
    x, g = _pair(channels, outputs, size, geometry, K=K)
    exact = conv_oracle(x, g, geometry, 1)
    if layout == "channels last":
        x, g = _channels_last(x, 1), _channels_last(g, 2)
    if layout == "cotangents first":
        g = g.transpose(0, 1).contiguous().transpose(0, 1)
    found = _sample_groups.grouped_sq_norm(x, g, Geometry(*geometry))
    assert_close_relative(found, exact, 1e-5)


@pytest.mark.parametrize(
    "channels, outputs, size, K, last, expected",
    [
        pytest.param(16, 32, (16, 16, 16), 1, False, True, id="volumes"),
        pytest.param(16, 32, (16, 16, 16), 10, False, True, id="volumes, several cotangents"),
        pytest.param(1, 32, (16, 16, 16), 1, False, False, id="volumes of one channel"),
        pytest.param(32, 32, (32, 32), 1, False, True, id="images"),
        pytest.param(32, 32, (32, 32), 2, False, False, id="images, several cotangents"),
        pytest.param(32, 32, (31, 31), 1, True, True, id="channels last"),
        pytest.param(32, 32, (32, 32), 1, True, False, id="large, channels last"),
        pytest.param(96, 16, (31, 31), 1, True, False, id="many, channels last"),
        pytest.param(48, 48, (256,), 1, False, True, id="sequences"),
        pytest.param(128, 48, (256,), 1, False, False, id="sequences of many channels"),
    ],
)
def test_where_it_is_used(channels, outputs, size, K, last, expected, monkeypatch):
    used = []
    whole = _direct.grouped_sq_norm
    monkeypatch.setattr(_direct, "grouped_sq_norm", lambda *args: used.append(1) or whole(*args))
    ones = (1,) * len(size)
    geometry = Geometry((3,) * len(size), ones, ones, ones)
    x, g = _pair(channels, outputs, size, geometry, N=2, K=K)
    if last:
        x, g = _channels_last(x, 1), _channels_last(g, 2)
    found = _torch_norms.conv_sq_norm(x, g, geometry, 1)
    assert bool(used) == expected
    assert_close_relative(found, conv_oracle(x, g, geometry, 1), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_left(dtype):
    x, g = torch.randn(2, 16, 8, 8, 8, dtype=dtype), torch.randn(2, 1, 16, 8, 8, 8, dtype=dtype)
    assert not _sample_groups.is_grouped(x, g)


def test_processors_with_another_library_are_left(monkeypatch):
    x, g = torch.randn(2, 16, 8, 8, 8), torch.randn(2, 1, 16, 8, 8, 8)
    assert _sample_groups.is_grouped(x, g)
    monkeypatch.setattr(_matmul, "has_fast_mkl", lambda: True)
    assert not _sample_groups.is_grouped(x, g)


def test_no_samples():
    x, g = torch.randn(0, 16, 8, 8, 8), torch.randn(0, 1, 16, 8, 8, 8)
    assert not _sample_groups.is_grouped(x, g)


@pytest.mark.parametrize("at_once", [1, 5, 12])
@pytest.mark.parametrize("first", [False, True], ids=["plain", "cotangents first"])
@pytest.mark.parametrize("last", [False, True], ids=["outputs last", "positions last"])
@pytest.mark.parametrize("I, O", [(40, 36), (16, 90)])
def test_several_cotangents_are_one_product(I, O, last, first, at_once, monkeypatch):
    N, K, T = 2, 12, 130
    assert T * I * O < _products._OWN_CALL <= K * T * I * O
    monkeypatch.setattr(_products, "_STACKED", at_once * I * O)
    products = []
    whole = operators.onednn_linear
    monkeypatch.setattr(
        operators, "onednn_linear", lambda *args: products.append(1) or whole(*args)
    )
    monkeypatch.setattr(_matmul, "_WORTH", 0)
    a, g = torch.randn(N, T, I), torch.randn(N, K, T, O)
    exact = linear_oracle(a, g)
    g = g.mT.contiguous().mT if last else g
    g = g.transpose(0, 1).contiguous().transpose(0, 1) if first and not last else g
    found = reference.direct_sq_norm(a, g)
    assert len(products) == N * -(-K // at_once)
    assert_close_relative(found, exact, 1e-5)


def test_rows_that_leave_out_every_second_position():
    """Of a pointwise convolution with a stride, whose rows have an odd number of positions."""
    x, g = torch.randn(2, 64, 4095), torch.randn(2, 1, 16, 2048)
    geometry = ((1,), (2,), (0,), (1,))
    found = _torch_norms.conv_sq_norm(x, g, Geometry(*geometry), 1)
    assert_close_relative(found, conv_oracle(x, g, geometry, 1), 1e-5)
