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


@dtypes
@pytest.mark.parametrize("layout", [guarded, _channels_last, scattered, _sliced])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scaled_channels(shape, layout, dtype):
    g, scale = layout(randn(*shape, dtype=dtype)), randn(shape[1])
    actual, expected = scaled.scaled_channels(g, scale), reference.scaled_channels(g, scale)
    assert actual.dtype == dtype
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, _channels_last])
def test_the_layout_is_kept(layout):
    g = layout(randn(2, 8, 4, 4))
    assert scaled.scaled_channels(g, randn(8)).stride() == g.stride()


@pytest.mark.parametrize("shape", [(0, 2), (2, 0, 3), (2, 3, 0, 4)], ids=str)
def test_nothing_to_scale(shape):
    assert scaled.scaled_channels(randn(*shape), randn(shape[1])).shape == shape


def test_scales_of_a_dtype_that_no_kernel_reads_are_left_to_pytorch(monkeypatch):
    g, scale = randn(2, 3), randn(3).double()
    asked = []
    monkeypatch.setattr(scaled, "scaled_channels", lambda g, scale: asked.append(g))
    assert torch.equal(kernels.scaled_channels(g, scale), (g * scale).to(g.dtype))
    assert not asked
    kernels.scaled_channels(g, scale.float(), "triton")
    assert len(asked) == 1
