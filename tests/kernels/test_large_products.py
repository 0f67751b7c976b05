"""Sizes from which on products go to oneDNN and are treated one by one, against float64."""

import pytest
import torch
from asserts import assert_close_relative
from fastgradnorm_kernels import _matmul, reference
from kernel_support import conv_oracle, linear_oracle

ghost_and_direct = pytest.mark.parametrize(
    "operation",
    [lambda a, g: reference.ghost_sq_norm(a, g).sq_norm, reference.direct_sq_norm],
    ids=["ghost", "direct"],
)


@pytest.fixture(params=["oneDNN", "MKL"], autouse=True)
def either_library(request, monkeypatch):
    if request.param == "MKL":
        monkeypatch.setattr(_matmul, "_onednn", lambda: None)
    elif _matmul._onednn() is None:
        pytest.skip("this PyTorch has no oneDNN")


@ghost_and_direct
@pytest.mark.parametrize("positions_last", [False, True])
def test_one_by_one(operation, positions_last):
    N, K, T, I, O = 2, 3, 130, 127, 65
    assert min(T * T * O, T * I * O) >= reference._OWN_CALL
    a, g = torch.randn(N, T, I), torch.randn(N, K, T, O)
    g = g.mT.contiguous().mT if positions_last else g
    assert_close_relative(operation(a, g), linear_oracle(a, g), 1e-5)


def test_uncancelled_is_the_sum_of_squares():
    a, g = torch.randn(2, 130, 8), torch.randn(2, 3, 130, 65)
    exact = (a.double().square().sum(-1)[:, None] * g.double().square().sum(-1)).sum(-1)
    for rows in (g, g.mT.contiguous().mT):
        assert_close_relative(reference.ghost_sq_norm(a, rows).uncancelled, exact, 1e-5)


@ghost_and_direct
def test_no_samples(operation):
    a, g = torch.randn(0, 130, 130), torch.randn(0, 3, 130, 65)
    assert operation(a, g).shape == (0, 3)


@pytest.mark.parametrize("limit", [1 << 22, 0], ids=["patches", "no patches"])
def test_direct_convolution_with_patches_and_without(limit, monkeypatch):
    monkeypatch.setattr(reference, "_PATCHES", limit)
    x, g = torch.randn(2, 16, 24, 20), torch.randn(2, 3, 32, 12, 9)
    geometry = ((3, 3), (2, 2), (1, 0), (1, 1))
    actual = reference.direct_conv_sq_norm(x, g, *geometry, 1)
    assert_close_relative(actual, conv_oracle(x, g, geometry, 1), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear(dtype, with_bias):
    x, weight = torch.randn(3, 70, 130, dtype=dtype), torch.randn(130, 90, dtype=dtype).mT
    bias = torch.randn(90, dtype=dtype) if with_bias else None
    exact = x.double() @ weight.double().mT + (0 if bias is None else bias.double())
    actual = _matmul.linear(x, weight, bias)
    assert actual.dtype == dtype
    assert (actual - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_a_missing_operator_is_done_without(monkeypatch):
    monkeypatch.undo()  # the real one
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert _matmul._onednn.__wrapped__() is None
