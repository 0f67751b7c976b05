"""Weight norms by products that take transposed factors as they lie, against float64."""

import fastgradnorm_kernels as kernels
import pytest
import torch
from fastgradnorm_kernels import _direct, _matmul, _torch_norms, patches, reference
from fastgradnorm_kernels.geometry import Geometry

from tests.support.asserts import assert_close_relative
from tests.support.kernel_support import conv_oracle, linear_oracle


@pytest.fixture(autouse=True)
def takes_them(monkeypatch):
    monkeypatch.setattr(_matmul, "has_fast_mkl", lambda: True)
    monkeypatch.setattr(_direct, "_WORTH", 0)
    monkeypatch.setattr(_direct, "_OWN_WINDOWS", 0)


@pytest.fixture
def alone(monkeypatch):
    """Nothing is left to the other library's way."""
    monkeypatch.delattr(reference, "direct_sq_norm")
    monkeypatch.delattr(reference, "direct_conv_sq_norm")


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("N, K", [(2, 1), (2, 3), (4, 3)])
@pytest.mark.parametrize("I, O", [(5, 4), (40, 4), (40, 20), (20, 40), (4, 40)])
@pytest.mark.parametrize("layout", ["plain", "positions last", "cotangents first"])
def test_linear(layout, I, O, N, K, own, alone, monkeypatch):
    """Whichever factor is narrow, a product each, or several in one call."""
    monkeypatch.setattr(_direct, "_OWN_CALL", 0 if own else 1 << 14)
    monkeypatch.setattr(_direct, "_BLOCK", 2 * K * I * O)  # of two samples
    a, g = torch.randn(N, 7, I), torch.randn(N, K, 7, O)
    if layout == "positions last":
        a, g = a.mT.contiguous().mT, g.mT.contiguous().mT
    elif layout == "cotangents first":
        g = g.transpose(0, 1).contiguous().transpose(0, 1)
    assert_close_relative(_direct.direct_sq_norm(a, g), linear_oracle(a, g), 1e-5)


@pytest.mark.parametrize("outputs", [4, 20])
@pytest.mark.parametrize("last", [True, False])
def test_few_columns_are_the_rows(last, outputs, monkeypatch):
    """MKL takes fifteen times as long for fewer than 16 columns as for as many rows."""
    seen, bmm = [], torch.bmm

    def looked_at(x, y, **named):
        seen.append(y.shape[-1])
        return bmm(x, y, **named)

    monkeypatch.setattr(torch, "bmm", looked_at)
    a, g = torch.randn(4, 9, 40), torch.randn(4, 3, 9, outputs)
    _direct.direct_sq_norm(a, g.mT.contiguous().mT if last else g)
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    x, g = torch.randn(2, 16, 6, 7), torch.randn(2, 3, outputs, 6, 7)
    if last:
        g = g.movedim(2, -1).contiguous().movedim(-1, 2)
    _direct.direct_conv_sq_norm(x, g, geometry)
    assert min(seen) >= 16


# Channels, space, outputs, kernel size, stride, padding, dilation.
CONVOLUTIONS = {
    "plain": (5, (6, 7), 4, (3, 3), (1, 1), (1, 1), (1, 1)),
    "even kernel": (2, (6, 7), 3, (2, 4), (1, 1), (1, 2), (1, 1)),
    "stride": (3, (9, 8), 4, (3, 3), (2, 2), (1, 1), (1, 1)),
    "stride, wide kernel": (1, (11, 12), 2, (7, 5), (3, 2), (3, 0), (1, 1)),
    "stride beyond the kernel": (2, (9, 9), 2, (1, 2), (3, 4), (0, 1), (1, 1)),
    "dilation": (2, (9, 8), 3, (3, 2), (1, 1), (2, 1), (2, 3)),
    "stride and dilation": (2, (13, 14), 3, (3, 3), (2, 2), (2, 3), (2, 3)),
    "stride and dilation, no divisors": (2, (21, 14), 3, (4, 3), (4, 2), (6, 3), (6, 3)),
    "a row": (3, (1, 9), 2, (1, 3), (1, 1), (0, 1), (1, 1)),
    "few outputs": (16, (6, 7), 3, (3, 3), (1, 1), (1, 1), (1, 1)),
    "few outputs, stride": (16, (9, 8), 3, (3, 3), (2, 2), (1, 1), (1, 1)),
    "some outputs": (16, (6, 7), 20, (3, 2), (1, 1), (1, 1), (1, 1)),
    "many outputs": (16, (6, 7), 40, (3, 2), (1, 1), (1, 1), (1, 1)),
    "few outputs, 3-D": (8, (4, 5, 6), 3, (3, 2, 3), (1, 2, 1), (1, 0, 1), (1, 1, 2)),
    "3-D": (2, (4, 5, 6), 3, (3, 2, 3), (1, 2, 1), (1, 0, 1), (1, 1, 2)),
    "1-D": (16, (12,), 3, (3,), (1,), (1,), (1,)),
    "1-D, causal": (16, (12,), 3, (3,), (1,), (4,), (2,)),
    "1-D, places in the padding": (16, (2,), 3, (3,), (1,), (2,), (2,)),
    "1-D, stride": (16, (13,), 3, (4,), (3,), (2,), (2,)),
}


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, last, K, alone):
    channels, space, outputs, *geometry = CONVOLUTIONS[name]
    geometry = Geometry(*geometry)
    x, g = torch.randn(2, channels, *space), torch.randn(2, K, outputs, *geometry.out(space))
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
        g = g.movedim(2, -1).contiguous().movedim(-1, 2)
    actual = _direct.direct_conv_sq_norm(x, g, geometry)
    assert_close_relative(actual, conv_oracle(x, g, geometry, 1), 1e-5)


@pytest.mark.parametrize("N, K", [(1, 1), (3, 2), (0, 2)])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("groups, kernel", [(2, 3), (2, 1), (4, 3)])
@pytest.mark.parametrize("outputs", [8, 40])
def test_groups(outputs, groups, kernel, last, N, K, monkeypatch):
    """Products of groups, of a few samples at a time: two images of patches are one too many."""
    monkeypatch.setattr(patches, "_BLOCK", 8 * kernel**2 * 144 * 2)
    monkeypatch.delattr(reference, "direct_conv_sq_norm")
    geometry = Geometry((kernel,) * 2, (1, 1), (kernel // 2,) * 2, (1, 1))
    x, g = torch.randn(N, 8, 12, 12), torch.randn(N, K, outputs, 12, 12)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
        g = g.movedim(2, -1).contiguous().movedim(-1, 2)
    actual = _torch_norms.conv_sq_norm(x, g, geometry, groups)
    assert_close_relative(actual, conv_oracle(x, g, geometry, groups), 1e-5)


@pytest.mark.parametrize("form", ["patches", "pixels"])
def test_grams_of_gradients_as_they_lie(form, monkeypatch):
    monkeypatch.setattr(_torch_norms, "_cheapest", lambda *given: form)
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    x = torch.randn(2, 5, 6, 7).contiguous(memory_format=torch.channels_last)
    g = torch.randn(2, 3, 6, 7, 4).movedim(-1, 2)
    actual = _torch_norms.conv_sq_norm(x, g, geometry, 1)
    assert_close_relative(actual, conv_oracle(x, g, geometry, 1), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_left(dtype):
    a, g = torch.randn(2, 7, 5).to(dtype), torch.randn(2, 3, 7, 4).to(dtype)
    assert_close_relative(_direct.direct_sq_norm(a, g), linear_oracle(a, g), 1e-5)
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    x, g = torch.randn(2, 5, 6, 7).to(dtype), torch.randn(2, 3, 4, 6, 7).to(dtype)
    actual = _direct.direct_conv_sq_norm(x, g, geometry)
    assert_close_relative(actual, conv_oracle(x, g, geometry, 1), 1e-5)


@pytest.mark.parametrize(
    "name, wide, expected",
    [
        ("Intel Xeon", True, True), ("Intel Core", False, True), ("AMD EPYC", True, False),
        ("AMD EPYC", False, True), (None, None, False),
    ],
)  # fmt: skip
def test_whose_processor_it_is(name, wide, expected, monkeypatch):
    """MKL uses AVX-512 on Intel's alone; where nothing does, it is ahead on others too."""
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"cpu_name": name, "avx512_f": wide}, raising=False
    )
    assert _matmul.has_fast_mkl.__wrapped__() == expected


def test_no_samples():
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    x, g = torch.randn(0, 5, 6, 7), torch.randn(0, 3, 4, 6, 7)
    assert _direct.direct_conv_sq_norm(x, g, geometry).shape == (0, 3)
    assert _direct.direct_sq_norm(torch.randn(0, 7, 5), torch.randn(0, 3, 7, 4)).shape == (0, 3)


@pytest.mark.parametrize("groups", [1, 2])
def test_no_samples_of_one_position(groups):
    geometry = (3,), (1,), (0,), (1,)
    x, g = torch.randn(0, 4, 3), torch.randn(0, 2, 6, 1)
    assert kernels.conv_sq_norm(x, g, *geometry, groups).shape == (0, 2)
