"""Exact float32 products of halves, against float64, at every geometry and at odd magnitudes."""

import pytest
import torch
from fastgradnorm_kernels import exact_convolution, exact_products, half_parts, tiles
from fastgradnorm_kernels.geometry import Geometry, sizes
from fastgradnorm_kernels.tiles import Tile
from torch.nn import functional as F

from tests.support.kernel_support import DEVICE, assert_same_bits, guarded, randn

CONVS = (F.conv1d, F.conv2d, F.conv3d)
# Kernel, stride, padding, dilation, space; channels in and out.
GEOMETRIES = [
    ((3, 3), 1, 1, 1, (5, 4), 16, 16),
    ((3, 3), 2, 1, 1, (5, 6), 16, 32),
    ((1, 1), 1, 0, 1, (3, 3), 32, 16),
    ((1, 1), 2, 0, 1, (5, 4), 16, 16),
    ((1, 1), 1, 1, 1, (3, 3), 16, 16),
    ((3, 3), 2, 2, 2, (7, 6), 16, 16),
    ((3, 2), (1, 2), (0, 1), (2, 1), (7, 5), 16, 16),
    ((2, 3), (3, 2), (1, 0), (1, 3), (6, 8), 16, 16),
    ((3, 2), 4, 0, 1, (9, 9), 16, 16),
    ((2, 2), 3, 1, 1, (6, 7), 16, 16),
    ((4, 3), 2, 1, 3, (12, 9), 16, 16),
    ((3,), 2, 1, 1, (9,), 16, 48),
    ((3, 3, 3), 2, 1, 1, (3, 4, 4), 16, 16),
    ((), 1, 0, 1, (), 48, 32),
]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """The interpreter takes as long for what is masked."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(tiles, "exact", lambda rows, columns, device: Tile(32, 16, 16, 4, 2))


def _geometry(kernel, *options):
    return Geometry(kernel, *(sizes(option, len(kernel)) for option in options))


def _exact(x, weight, bias, geometry):
    """In float64, with what pulls it back."""
    x, weight = x.double().requires_grad_(), weight.double()
    bias = None if bias is None else bias.double()
    if not geometry.kernel_size:
        return x, F.linear(x, weight, bias)
    return x, CONVS[len(geometry.kernel_size) - 1](x, weight, bias, *geometry[1:])


def _error(found, exact):
    """Root mean square, in parts of the numbers' own; what is no number is infinitely wrong."""
    error = float((found.double() - exact).norm() / exact.norm())
    return error if error == error else float("inf")


def _both(x, weight, bias, geometry):
    """Errors of a convolution and of its pull-back."""
    own, y = _exact(x, weight, bias, geometry)
    g = randn(*y.shape)
    (pulled,) = torch.autograd.grad(y, own, g.double())
    found = exact_products.convolution(x, weight, bias, geometry)
    back = exact_products.convolution_pulled(
        g, weight, geometry, x.shape[2:], exact_products.Kept()
    )
    assert found.shape == y.shape
    assert back.shape == x.shape
    return _error(found, y.detach()), _error(back, pulled)


@pytest.mark.slow
@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_both_ways(case):
    kernel, stride, padding, dilation, space, inputs, outputs = case
    x = guarded(randn(3, inputs, *space).relu())
    weight, bias = guarded(randn(outputs, inputs, *kernel)), guarded(randn(outputs))
    errors = _both(x, weight, bias, _geometry(kernel, stride, padding, dilation))
    assert max(errors) < 3e-7


SQUARE = _geometry((3, 3), 1, 1, 1)


def _levels(size, most):
    """Powers of ten from 1 to `most`, one for each of so many, in no order."""
    return (10.0 ** (most * torch.rand(size))).to(DEVICE)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e25])
def test_numbers_of_any_size(scale):
    x, weight = randn(2, 16, 4, 4) * scale, randn(16, 16, 3, 3)
    assert max(_both(x, weight, None, SQUARE)) < 3e-7


@pytest.mark.slow
def test_channels_of_any_size_that_weights_make_up_for():
    """As batch norms fold into weights: half precision alone would lose the small channels."""
    level = _levels(16, 9)[:, None, None]
    x, weight = randn(2, 16, 4, 4) * level, randn(16, 16, 3, 3) / level
    _, y = _exact(x, weight, None, SQUARE)
    found = exact_products.convolution(x, weight, None, SQUARE)
    assert _error(found, y.detach()) < 3e-7


@pytest.mark.slow
def test_outputs_of_any_size():
    """Each is as exact as the others, not as the largest."""
    weight = randn(16, 16, 3, 3) * _levels(16, 9)[:, None, None, None]
    x = randn(2, 16, 4, 4)
    _, y = _exact(x, weight, None, SQUARE)
    found = exact_products.convolution(x, weight, None, SQUARE)
    for channel in range(16):
        assert _error(found[:, channel], y[:, channel].detach()) < 5e-7


@pytest.mark.slow
def test_rows_of_any_size():
    x = (
        randn(4, 16, 4, 4)
        * torch.tensor([1e-20, 1.0, 1e10, 1e20], device=DEVICE)[:, None, None, None]
    )
    weight = randn(16, 16, 3, 3)
    _, y = _exact(x, weight, None, SQUARE)
    found = exact_products.convolution(x, weight, None, SQUARE)
    for row in range(4):
        assert _error(found[row], y[row].detach()) < 3e-7


@pytest.mark.slow
def test_a_row_of_zeros_gives_zeros():
    x, weight = randn(2, 16, 4, 4), randn(16, 16, 3, 3)
    x[0] = 0
    assert not exact_products.convolution(x, weight, None, SQUARE)[0].any()
    assert not exact_products.convolution(x, torch.zeros_like(weight), None, SQUARE).any()


@pytest.mark.slow
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_row(bad):
    x, weight = randn(3, 16, 4, 4), randn(16, 16, 3, 3)
    before = exact_products.convolution(x, weight, None, SQUARE)
    x[1, 5, 2, 2] = bad
    found = exact_products.convolution(x, weight, None, SQUARE)
    assert not found[1].isfinite().any()
    assert torch.equal(found[[0, 2]], before[[0, 2]])


@pytest.mark.slow
def test_bits_of_a_row_do_not_depend_on_the_others():
    x, weight = randn(5, 16, 4, 4), randn(32, 16, 3, 3)
    together = exact_products.convolution(x, weight, None, SQUARE)
    for row in range(5):
        alone = exact_products.convolution(x[row : row + 1], weight, None, SQUARE)
        assert_same_bits(alone[0], together[row])


@pytest.mark.slow
def test_any_layout_in_memory():
    x, weight = randn(2, 16, 5, 4), randn(16, 16, 3, 3)
    expected = exact_products.convolution(x, weight, None, SQUARE)
    last = x.to(memory_format=torch.channels_last)
    strided = torch.stack([x, -x], -1)[..., 0]
    for given in (last, strided):
        assert torch.equal(exact_products.convolution(given, weight, None, SQUARE), expected)
    turned = weight.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(exact_products.convolution(x, turned, None, SQUARE), expected)


@pytest.mark.slow
def test_rows_beyond_32_bits_are_cut(monkeypatch):
    x, weight = randn(5, 16, 4, 4), randn(16, 16, 3, 3)
    expected = exact_products.convolution(x, weight, None, SQUARE)
    monkeypatch.setattr(exact_convolution, "_MOST_ROWS", 40)
    assert_same_bits(exact_products.convolution(x, weight, None, SQUARE), expected)


def test_no_rows():
    weight = randn(16, 16, 3, 3)
    assert exact_products.convolution(randn(0, 16, 4, 4), weight, None, SQUARE).shape == (
        0,
        16,
        4,
        4,
    )


@pytest.mark.slow
def test_linear_layers():
    x, weight, bias = randn(2, 3, 32), randn(16, 32), randn(16)
    found = exact_products.linear(x, weight, bias)
    assert _error(found, F.linear(x.double(), weight.double(), bias.double())) < 3e-7
    g = randn(2, 3, 16)
    pulled = exact_products.linear_pulled(g, weight, exact_products.Kept())
    assert _error(pulled, g.double() @ weight.double()) < 3e-7


@pytest.mark.slow
def test_parts_of_weights_are_kept_until_these_change(monkeypatch):
    made = []
    original = half_parts.split_weights
    monkeypatch.setattr(half_parts, "split_weights", lambda w: made.append(1) or original(w))
    x, weight = randn(2, 16, 4, 4), randn(16, 16, 3, 3)
    with exact_products.keeping(exact_products.Kept([weight])):
        first = exact_products.convolution(x, weight, None, SQUARE)
        exact_products.convolution(x[:, :, :3], weight.detach(), None, SQUARE)
        assert len(made) == 1
        weight.mul_(2)
        assert torch.equal(exact_products.convolution(x, weight, None, SQUARE), 2 * first)
        assert len(made) == 2
    exact_products.convolution(x, weight, None, SQUARE)
    assert len(made) == 3  # nobody keeps


@pytest.mark.slow
@pytest.mark.parametrize("before", ["a pass", "a captured pass"])
def test_parts_that_are_made_anew_lie_where_they_were(before):
    x, weight = randn(2, 16, 4, 4), randn(16, 16, 3, 3)
    parts = exact_products.Kept([weight])
    with exact_products.keeping(parts):
        exact_products.convolution(x, weight, None, SQUARE)
        ((_, found),) = parts.found.items()
        places = [part.data_ptr() for part in found.made]
        weight.mul_(3).neg_()
        if before == "a pass":
            exact_products.convolution(x, weight, None, SQUARE)
        else:
            parts.renew()
    assert [part.data_ptr() for part in found.made] == places
    fresh = exact_products.Kept([weight])
    with exact_products.keeping(fresh):
        exact_products.convolution(x, weight, None, SQUARE)
    ((_, anew),) = fresh.found.items()
    assert all(map(torch.equal, found.made, anew.made))


@pytest.mark.slow
def test_parts_of_weights_that_are_made_anew_are_not_kept():
    x, weight, parts = randn(2, 16, 4, 4), randn(16, 16, 3, 3), exact_products.Kept()
    with exact_products.keeping(parts):
        for scale in (1.0, 2.0):
            found = exact_products.convolution(x, weight * scale, None, SQUARE)
    assert not parts.found
    assert torch.equal(found, exact_products.convolution(x, weight * 2, None, SQUARE))


# Of one block, and of more than are read at once.
@pytest.mark.parametrize("positions", [5, pytest.param(17000, marks=pytest.mark.slow)])
def test_halves_are_the_number_to_its_last_bits(positions):
    x = randn(3, positions, 16) * _levels(3, 20)[:, None, None]
    x[:, -1] *= 1000  # the largest is in the last block
    balance = 2.0 ** torch.randint(-9, 9, (16,)).to(DEVICE)
    parts = half_parts.split(x, balance)
    found = (parts.high.double() + parts.low.double()) * parts.inverse.double()[:, None, None]
    exact = x.double() * balance
    assert (
        (found - exact).abs() <= exact.abs() * 2**-23 + exact.abs().amax((1, 2), True) * 2**-39
    ).all()
    assert parts.high.abs().max() < 2**15


@pytest.mark.parametrize("inputs, outputs, takes", [(16, 8, True), (8, 16, False), (16, 12, False)])
def test_channels_are_whole_vectors(monkeypatch, inputs, outputs, takes):
    monkeypatch.setattr(exact_products._backends, "is_exact_on_matrix_units", lambda x: True)
    x, weight = randn(1, inputs, 4, 4), randn(outputs, inputs, 3, 3)
    assert exact_products.convolves(x, weight) == takes
    assert exact_products.pulls(x, weight.transpose(0, 1)) == takes
    assert not exact_products.convolves(x.double(), weight.double())
    assert not exact_products.convolves(x.bfloat16(), weight.bfloat16())


def test_rows_that_32_bits_do_not_number_are_left_to_the_library(monkeypatch):
    monkeypatch.setattr(exact_products._backends, "is_exact_on_matrix_units", lambda x: True)
    small, large = (torch.zeros(1).expand(1, 16, 1 << 13, side) for side in (64, 1 << 13))
    same, wider = torch.zeros(16, 16, 3, 3), torch.zeros(4096, 16, 3, 3)
    for takes in (exact_products.convolves, exact_products.pulls):
        assert takes(small, same)
        assert not takes(large, same)
        assert not takes(small, wider)  # what comes out, and goes back, is larger
