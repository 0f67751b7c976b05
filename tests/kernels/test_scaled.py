import fastgradnorm_kernels as kernels
import pytest
import torch
from fastgradnorm_kernels import reference, scaled

from tests.support.kernel_support import dtypes, guarded, randn, scattered

SHAPES = [(2, 3), (5, 16, 4, 4), (2, 5, 7, 3), (3, 300, 1, 1), (2, 8, 40, 40), (2, 8, 9), (1, 1)]


def _channels_last(x):
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def _sliced(x):
    return torch.cat([x, x + 1], -1)[..., : x.shape[-1]]


def _factors(channels, weighted=True):
    return randn(channels).square() + 0.1, randn(channels) if weighted else None, 1e-3


def assert_same(actual, expected):
    """But for the last digit of a root and of its inverse, and what that rounds to."""
    torch.testing.assert_close(actual, expected, rtol=4 * torch.finfo(actual.dtype).eps, atol=0)


@dtypes
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("layout", [guarded, _channels_last, scattered, _sliced])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scaled_channels(shape, layout, weighted, dtype):
    g, factors = layout(randn(*shape, dtype=dtype)), _factors(shape[1], weighted)
    actual, expected = scaled.scaled_channels(g, *factors), reference.scaled_channels(g, *factors)
    assert actual.dtype == dtype
    assert_same(actual, expected)


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, _channels_last])
def test_the_layout_is_kept(layout):
    g = layout(randn(2, 8, 4, 4))
    assert scaled.scaled_channels(g, *_factors(8)).stride() == g.stride()


@pytest.mark.parametrize("shape", [(0, 2), (2, 0, 3), (2, 3, 0, 4)], ids=str)
def test_nothing_to_scale(shape):
    assert scaled.scaled_channels(randn(*shape), *_factors(shape[1])).shape == shape


def test_factors_of_a_dtype_that_no_kernel_reads_are_left_to_pytorch(monkeypatch):
    g, (var, weight, eps) = randn(2, 3), _factors(3)
    asked = []
    monkeypatch.setattr(scaled, "scaled_channels", lambda g, *_: asked.append(g))
    for wide in ((var.double(), weight), (var, weight.double())):
        exact = g * (weight.double() / (var.double() + eps).sqrt())
        assert_same(kernels.scaled_channels(g, *wide, eps), exact.to(g.dtype))
    assert not asked
    kernels.scaled_channels(g, var, weight, eps, "triton")
    kernels.scaled_channels(g, var, None, eps, "triton")
    assert len(asked) == 2
