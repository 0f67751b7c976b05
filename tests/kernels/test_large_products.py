"""Sizes from which on products go to oneDNN and are treated one by one, against float64."""

import fastgradnorm_kernels as kernels
import pytest
import torch
from fastgradnorm_kernels import _matmul, _products, _torch_norms, operators, patches, reference
from fastgradnorm_kernels.geometry import Geometry

from tests.support.asserts import assert_close_relative
from tests.support.kernel_support import conv_oracle, linear_oracle

pytestmark = pytest.mark.slow


def _ghost(a, g):
    return _torch_norms._ghost((rows @ rows.mT for rows in a), g, lambda: a)


ghost_and_direct = pytest.mark.parametrize(
    "operation", [_ghost, reference.direct_sq_norm], ids=["ghost", "direct"]
)


def _laid_out(g, layout):
    """The same gradients `[N, K, T, O]`, otherwise in memory."""
    if layout == "positions last":
        return g.mT.contiguous().mT
    return g.transpose(0, 1).contiguous().transpose(0, 1) if layout == "cotangents first" else g


layouts = pytest.mark.parametrize("layout", ["plain", "positions last", "cotangents first"])


@pytest.fixture(params=["oneDNN", "MKL", "MKL, transposed"], autouse=True)
def either_library(request, monkeypatch):
    monkeypatch.setattr(_matmul, "has_fast_mkl", lambda: request.param == "MKL, transposed")
    if request.param.startswith("MKL"):
        monkeypatch.setattr(_matmul, "_has_onednn", lambda: False)
    elif not (_matmul._has_onednn() and operators.has_onednn_linear()):
        pytest.skip("this PyTorch has no oneDNN")


@ghost_and_direct
@layouts
def test_one_by_one(operation, layout):
    N, K, T, I, O = 2, 4, 130, 600, 65
    assert K * T * T * O >= _torch_norms._SMALL
    assert T * I * O >= 2 * _products._OWN_CALL
    a, g = torch.randn(N, T, I), _laid_out(torch.randn(N, K, T, O), layout)
    assert_close_relative(operation(a, g), linear_oracle(a, g), 1e-5)
    assert_close_relative(_torch_norms.weight_sq_norm(a, g), linear_oracle(a, g), 1e-5)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("I, O", [(600, 65), (65, 600)])
def test_either_factor_may_have_its_positions_last(I, O, last):
    a, g = torch.randn(2, 130, I), torch.randn(2, 3, 130, O)
    a = a.mT.contiguous().mT if last else a
    assert_close_relative(reference.direct_sq_norm(a, g), linear_oracle(a, g), 1e-5)


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("I, O", [(1000, 12), (12, 1000), (300, 40)])
@layouts
def test_narrow_factors(layout, I, O, at_once, monkeypatch):
    """They give the rows of products, some cotangents at a time."""
    monkeypatch.setattr(_products, "_STACKED", at_once * I * O)
    T = 360
    a, g = torch.randn(2, T, I), _laid_out(torch.randn(2, 3, T, O), layout)
    assert T * I * O >= 2 * _products._OWN_CALL
    for given in (a, a.mT.contiguous().mT):
        assert_close_relative(reference.direct_sq_norm(given, g), linear_oracle(a, g), 1e-5)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("outputs", [8, 40])
def test_convolutions_of_narrow_outputs(outputs, format, monkeypatch):
    monkeypatch.setattr(reference, "_OWN_PATCHES", 1)
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    x = torch.randn(2, 20, 9, 8).contiguous(memory_format=format)
    g = torch.randn(6, outputs, 9, 8).contiguous(memory_format=format).unflatten(0, (2, 3))
    found = reference.direct_conv_sq_norm(x, g, *geometry, 1)
    assert_close_relative(found, conv_oracle(x, g, geometry, 1), 1e-5)


@pytest.mark.parametrize("at_once", [1, 3, 4])
@pytest.mark.parametrize("O", [65, 300], ids=["few outputs", "many"])
@layouts
def test_cotangents_side_by_side(layout, O, at_once, monkeypatch):
    K, T, I = 4, 130, 600
    monkeypatch.setattr(_torch_norms, "_TOGETHER", at_once * T * O)
    monkeypatch.setattr(_torch_norms, "_OWN_PRODUCT", 1 << 40)
    parts = []
    whole = _torch_norms._of_columns
    monkeypatch.setattr(
        _torch_norms, "_of_columns", lambda gram, g: parts.append(len(g)) or whole(gram, g)
    )
    a, g = torch.randn(2, T, I), torch.randn(2, K, T, O)
    actual = _torch_norms.weight_sq_norm(a, _laid_out(g, layout))
    assert sum(parts) == (0 if layout == "positions last" else 2 * K)
    assert not parts or max(parts) == at_once
    assert_close_relative(actual, linear_oracle(a, g), 1e-5)


@pytest.mark.parametrize("O", [65, 300], ids=["few outputs", "many"])
@layouts
def test_lost_digits_are_found_again(layout, O, monkeypatch):
    K, T, I = 4, 130, 600
    assert kernels.choose_form(T, I, O, K) == "ghost"
    assert K * T * T * O >= _torch_norms._SMALL
    assert (O >= _torch_norms._WIDE * T) == (O == 300)
    a = torch.randn(2, 1, I) + 0.01 * torch.randn(2, T, I)
    g = torch.randn(2, K, T, O)
    a[:, 0], g[:, :, 0] = 0, 0  # the scale is not that of the smallest
    g[:, 1:, 1:] -= g[:, 1:, 1:].mean(2, keepdim=True)  # the common part of a cancels
    again = []
    direct = reference.direct_sq_norm
    monkeypatch.setattr(
        reference, "direct_sq_norm", lambda a, g: again.append(len(a)) or direct(a, g)
    )
    actual = _torch_norms.weight_sq_norm(a, _laid_out(g, layout))
    assert again == [6]
    assert_close_relative(actual.sqrt(), linear_oracle(a, g).sqrt(), 1e-5)


def test_one_bright_position_is_no_reason_to_compute_directly(monkeypatch):
    a, g = torch.randn(2, 130, 600), torch.randn(2, 4, 130, 65)
    a[:, 7] *= 100
    g[:, :, 7] = 0  # the bound on the terms is far above them
    monkeypatch.delattr(reference, "direct_sq_norm")
    assert_close_relative(_torch_norms.weight_sq_norm(a, g), linear_oracle(a, g), 1e-5)


# Of x, of the gradients, kernel size, stride, padding, dilation.
CONVOLUTIONS = {
    "direct": ((8, 16, 16), (64, 14, 16), (3, 3), (1, 1), (0, 1), (1, 1)),
    "pixels": ((300, 8, 9), (128, 8, 9), (3, 3), (1, 1), (1, 1), (1, 1)),
    "pixels, dilated": ((300, 9, 8), (128, 7, 10), (2, 3), (1, 1), (0, 3), (2, 2)),
    "pixels, stride": ((900, 7, 8), (64, 4, 8), (5, 5), (2, 1), (2, 2), (1, 1)),
    "pixels, 3-D": ((200, 4, 5, 4), (128, 4, 5, 4), (3, 3, 3), (1,) * 3, (1,) * 3, (1,) * 3),
    "pixels, 1-D": ((500, 40), (64, 40), (9,), (1,), (4,), (1,)),
    "patches": ((150, 16, 16), (128, 8, 8), (3, 3), (2, 2), (1, 1), (1, 1)),
    "patches, large": ((200, 22, 22), (128, 11, 11), (3, 3), (2, 2), (1, 1), (1, 1)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("K", [1, 40])
def test_convolutions(name, K):
    x_shape, g_shape, *geometry = CONVOLUTIONS[name]
    x, g = torch.randn(2, *x_shape), torch.randn(2, K, *g_shape)
    actual = _torch_norms.conv_sq_norm(x, g, Geometry(*geometry), 1)
    assert_close_relative(actual, conv_oracle(x, g, geometry, 1), 1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_cheapest_form_is_used(name, monkeypatch):
    form = name.split(",")[0]
    for other, function in (("patches", "_patch_grams"), ("pixels", "_pixel_grams")):
        if other != form:
            monkeypatch.setattr(_torch_norms, function, None)
    if form != "direct":
        monkeypatch.delattr(reference, "direct_conv_sq_norm")
    test_convolutions(name, 40 if form == "patches" else 1)


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_a_few_samples_at_a_time(name, at_once, monkeypatch):
    x_shape, g_shape, *geometry = CONVOLUTIONS[name]
    x, g = torch.randn(3, *x_shape), torch.randn(20, 3, *g_shape).transpose(0, 1)
    split = []
    monkeypatch.setattr(reference, "_OWN_PATCHES", 1 << 40)
    for module in (_torch_norms, reference):
        monkeypatch.setattr(
            module, "sample_blocks", lambda t, _: split.append(t.split(at_once)) or split[-1]
        )
    actual = _torch_norms.conv_sq_norm(x, g, Geometry(*geometry), 1)
    assert split
    assert_close_relative(actual, conv_oracle(x, g, geometry, 1), 1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_with_the_channels_last(name):
    x_shape, g_shape, *geometry = CONVOLUTIONS[name]
    x, g = (t.movedim(-3, -1).contiguous().movedim(-1, -3) for t in _pair(x_shape, g_shape, 5))
    actual = _torch_norms.conv_sq_norm(x, g, Geometry(*geometry), 1)
    assert_close_relative(actual, conv_oracle(x, g, geometry, 1), 1e-5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("space, out, stride", [((9, 8), (5, 3), (2, 3)), ((40,), (14,), (3,))])
def test_pixels_that_are_skipped(space, out, stride, groups):
    ones, zeros = (1,) * len(out), (0,) * len(out)
    geometry = (ones, stride, zeros, ones)
    x, g = _pair((6, *space), (8, *out), 3)
    actual = _torch_norms.conv_sq_norm(x, g, Geometry(*geometry), groups)
    assert_close_relative(actual, conv_oracle(x, g, geometry, groups), 1e-5)


def _pair(x_shape, g_shape, samples):
    return torch.randn(samples, *x_shape), torch.randn(samples, 3, *g_shape)


def test_no_samples():
    a, g = torch.randn(0, 130, 600), torch.randn(0, 3, 130, 65)
    assert _torch_norms.weight_sq_norm(a, g).shape == (0, 3)
    assert reference.direct_sq_norm(a, g).shape == (0, 3)


@pytest.mark.parametrize(
    "most, own",
    [(1 << 22, 1 << 40), (1 << 22, 0), (0, 0)],
    ids=["patches of some", "of one", "none"],
)
def test_direct_convolution_with_patches_and_without(most, own, monkeypatch):
    monkeypatch.setattr(patches, "_MOST", most)
    monkeypatch.setattr(reference, "_OWN_PATCHES", own)
    x, g = _pair((16, 24, 20), (32, 12, 9), 2)
    geometry = ((3, 3), (2, 2), (1, 0), (1, 1))
    actual = reference.direct_conv_sq_norm(x, g, *geometry, 1)
    assert_close_relative(actual, conv_oracle(x, g, geometry, 1), 1e-5)


@pytest.mark.parametrize("side, patches", [(32, False), (31, True)])
def test_direct_convolution_of_one_cotangent_with_the_channels_last(side, patches, monkeypatch):
    built = []
    seen = reference.seen
    monkeypatch.setattr(reference, "seen", lambda *args: built.append(args) or seen(*args))
    x = torch.randn(2, 4, side, side).contiguous(memory_format=torch.channels_last)
    g, geometry = torch.randn(2, 1, 5, side, side), ((3, 3), (1, 1), (1, 1), (1, 1))
    actual = reference.direct_conv_sq_norm(x, g, *geometry, 1)
    assert bool(built) == patches
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [3, 800], ids=["one call", "several"])
@pytest.mark.parametrize("narrow", [False, True])
def test_add_linear(dtype, rows, narrow):
    """Of rows with gaps between them, to such rows, also those that it adds to."""
    x, weight = torch.randn(rows, 80, dtype=dtype)[:, :70], torch.randn(90, 70, dtype=dtype)
    weight = weight.bfloat16() if narrow else weight
    added = torch.randn(rows, 100, dtype=dtype)[:, 5:95]
    exact = added.double() + x.to(weight.dtype).double() @ weight.double().mT
    limit = (1e-2 if narrow else 1e-5) * exact.abs().max()
    out = torch.empty(rows, 95, dtype=dtype)[:, :90]
    assert _matmul.add_linear(added, x, weight, out) is out
    assert (out - exact).abs().max() <= limit
    assert (_matmul.add_linear(added, x, weight, added) - exact).abs().max() <= limit
