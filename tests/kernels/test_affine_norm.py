import pytest
import torch
from fastgradnorm_kernels import affine_norm, reference

from tests.support.kernel_support import (
    affine_oracle,
    assert_within_budget,
    dtypes,
    far_apart,
    guarded,
    randn,
    scattered,
)

SHAPES = [
    pytest.param(2, 2, 16, 128, id="one-tile"),
    pytest.param(3, 2, 45, 137, id="ragged"),
    pytest.param(1, 1, 1, 1, id="scalar"),
    pytest.param(1, 3, 300, 20, id="long"),
]


def _positions_last(x):
    return x.mT.contiguous().mT


@dtypes
@pytest.mark.parametrize("layout", [guarded, _positions_last, scattered])
@pytest.mark.parametrize("N, K, T, D", SHAPES)
def test_affine_sq_norm(N, K, T, D, layout, dtype):
    x, g = layout(randn(N, T, D, dtype=dtype)), layout(randn(N, K, T, D, dtype=dtype))
    actual, ref = affine_norm.affine_sq_norm(x, g), reference.affine_sq_norm(x, g)
    for got, expected, exact in zip(actual, ref, affine_oracle(x, g), strict=True):
        assert_within_budget(got, expected, exact, 2e-6)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)], ids=str)
def test_nothing_to_sum(shape):
    N, K, T, D = shape
    weight, bias = affine_norm.affine_sq_norm(randn(N, T, D), randn(N, K, T, D))
    assert weight.shape == bias.shape == (N, K)
    assert (weight == 0).all()
    assert (bias == 0).all()


@pytest.mark.slow
def test_two_layouts():
    x, g = randn(2, 45, 37), randn(2, 3, 45, 37)
    expected = affine_norm.affine_sq_norm(x, g)
    mixed = affine_norm.affine_sq_norm(_positions_last(x), g)
    torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=0)
    mixed = affine_norm.affine_sq_norm(x, _positions_last(g))
    torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=0)


def test_two_dtypes():
    x, g = randn(2, 3, 4), randn(2, 2, 3, 4, dtype=torch.float16)
    expected = affine_norm.affine_sq_norm(x, g.float())
    torch.testing.assert_close(affine_norm.affine_sq_norm(x, g), expected, rtol=0, atol=0)


def test_beyond_32_bits():
    x, g = randn(3, 4, 3, dtype=torch.float16), randn(3, 1, 4, 3, dtype=torch.float16)
    far = affine_norm.affine_sq_norm(far_apart(x), far_apart(g))
    torch.testing.assert_close(far, affine_norm.affine_sq_norm(x, g), rtol=0, atol=0)
    x, g = randn(1, 4, 3, dtype=torch.float16), randn(3, 4, 3, dtype=torch.float16)
    far = affine_norm.affine_sq_norm(x, far_apart(g)[None])
    torch.testing.assert_close(far, affine_norm.affine_sq_norm(x, g[None]), rtol=0, atol=0)


@pytest.mark.slow
def test_same_bits_twice_and_alone():
    x, g = randn(3, 50, 150), randn(3, 2, 50, 150)
    first = affine_norm.affine_sq_norm(x, g)
    torch.testing.assert_close(affine_norm.affine_sq_norm(x, g), first, rtol=0, atol=0)
    alone = affine_norm.affine_sq_norm(x[1:2], g[1:2])
    assert torch.equal(alone.weight, first.weight[1:2])
