import pytest
import torch
from fastgradnorm_kernels import ghost_norm, reference
from fastgradnorm_kernels.tiles import Tile

from tests.support.kernel_support import (
    DEVICE,
    Mode,
    assert_within_budget,
    far_apart,
    guarded,
    linear_oracle,
    product_modes,
    randn,
    scattered,
)

pytestmark = pytest.mark.slow

SHAPES = [
    pytest.param(2, 2, 32, 32, 32, id="one-tile"),
    pytest.param(3, 2, 45, 37, 10, id="ragged"),
    pytest.param(1, 1, 1, 1, 1, id="scalar"),
    pytest.param(1, 2, 140, 5, 70, id="many-tiles"),
    pytest.param(2, 11, 5, 3, 2, id="two-chunks"),
    pytest.param(1, 1, 17, 130, 66, id="deep"),
]


def _pair(N, K, T, I, O, dtype):
    # a common mean: without it the off-diagonal terms are noise that hides in the sum
    return randn(N, T, I, dtype=dtype) + 0.5, randn(N, K, T, O, dtype=dtype) + 0.5


def _uncancelled(a, g):
    a, g = a.double().cpu(), g.double().cpu()
    return (a.square().sum(-1)[:, None] * g.square().sum(-1)).sum(-1)


@product_modes
@pytest.mark.parametrize("N, K, T, I, O", SHAPES)
def test_ghost_sq_norm(N, K, T, I, O, mode):
    a, g = map(guarded, _pair(N, K, T, I, O, mode.dtype))
    actual = ghost_norm.ghost_sq_norm(a, g, input_precision=mode.precision)
    ref = reference.ghost_sq_norm(a, g)
    assert_within_budget(actual.sq_norm, ref.sq_norm, linear_oracle(a, g), mode.slack)
    assert_within_budget(actual.uncancelled, ref.uncancelled, _uncancelled(a, g), mode.slack)


@product_modes
@pytest.mark.parametrize("T", [3, 7, 16, 20, 40])
@pytest.mark.parametrize("last", [True, False], ids=["positions last", "outputs last"])
def test_tiles_and_stacks(T, last, mode):
    cotangents = 21 if T < 16 else 8  # several stacks, the last one not full, where there are any
    a, g = _pair(2, cotangents, T, 24, 40, mode.dtype)
    a, g = guarded(a), guarded(g.mT).mT if last else guarded(g)
    tile = Tile(16, 16, 32, 1, 2)
    actual = ghost_norm.ghost_sq_norm(a, g, input_precision=mode.precision, tile=tile)
    ref = reference.ghost_sq_norm(a, g)
    assert_within_budget(actual.sq_norm, ref.sq_norm, linear_oracle(a, g), mode.slack)
    assert_within_budget(actual.uncancelled, ref.uncancelled, _uncancelled(a, g), mode.slack)


@pytest.mark.parametrize("mode", [Mode(torch.float32, "tf32x3", 2e-6)], ids=["split"])
def test_many_positions(mode):
    # So many that places in the last tile, divided as those of few are, would be rounded up.
    a, g = map(guarded, _pair(1, 1, 1500, 16, 16, mode.dtype))
    tile = Tile(128, 128, 16, 4, 2)
    actual = ghost_norm.ghost_sq_norm(a, g, input_precision=mode.precision, tile=tile)
    ref = reference.ghost_sq_norm(a, g)
    assert_within_budget(actual.sq_norm, ref.sq_norm, linear_oracle(a, g), mode.slack)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4, 5), (2, 0, 3, 4, 5), (2, 2, 0, 4, 5)], ids=str)
def test_nothing_to_sum(shape):
    actual = ghost_norm.ghost_sq_norm(*_pair(*shape, torch.float32))
    assert actual.sq_norm.shape == actual.uncancelled.shape == shape[:2]
    assert (actual.sq_norm == 0).all()


@pytest.mark.parametrize("shape", [(2, 2, 3, 0, 5), (2, 2, 3, 4, 0)], ids=str)
def test_no_features(shape):
    actual = ghost_norm.ghost_sq_norm(*_pair(*shape, torch.float32))
    assert (actual.sq_norm == 0).all()
    assert (actual.uncancelled == 0).all()


# Interpreted they are IEEE products, summed as split ones are; the interpreter knows one name.
@pytest.mark.parametrize("precision", ["tf32x3", *(["bf16x6"] if DEVICE.type == "cuda" else [])])
def test_split_products_are_summed_outside_the_matrix_units(precision):
    a, g = map(guarded, _pair(1, 2, 70, 40, 9, torch.float32))
    actual = ghost_norm.ghost_sq_norm(a, g, input_precision=precision).sq_norm
    ref = reference.ghost_sq_norm(a, g).sq_norm
    assert_within_budget(actual, ref, linear_oracle(a, g), 1e-5 if a.is_cuda else 2e-6)


def test_strides():
    a, g = _pair(2, 3, 9, 7, 5, torch.float32)
    expected = ghost_norm.ghost_sq_norm(a, g)
    for strided in ((scattered(a), scattered(g)), (a.mT.contiguous().mT, g.mT.contiguous().mT)):
        torch.testing.assert_close(ghost_norm.ghost_sq_norm(*strided), expected, rtol=0, atol=0)
    one = g[:, :1].expand(-1, 3, -1, -1)
    actual = ghost_norm.ghost_sq_norm(a, one).sq_norm
    # Vectors of numbers that lie side by side are added up in another order.
    torch.testing.assert_close(actual, expected.sq_norm[:, :1].expand(-1, 3), rtol=1e-6, atol=0)


def test_beyond_32_bits():
    a, g = _pair(3, 1, 4, 3, 2, torch.float16)
    far = ghost_norm.ghost_sq_norm(far_apart(a), far_apart(g))
    torch.testing.assert_close(far, ghost_norm.ghost_sq_norm(a, g), rtol=0, atol=0)
    for positions in (4, 70):  # several cotangents in a tile, and one by one
        a, g = _pair(1, 3, positions, 3, 2, torch.float16)
        far = ghost_norm.ghost_sq_norm(a, far_apart(g[0])[None])
        torch.testing.assert_close(far, ghost_norm.ghost_sq_norm(a, g), rtol=0, atol=0)


def test_same_bits_twice_and_alone():
    a, g = _pair(3, 2, 70, 20, 9, torch.float32)
    first, again = ghost_norm.ghost_sq_norm(a, g), ghost_norm.ghost_sq_norm(a, g)
    alone = ghost_norm.ghost_sq_norm(a[1:2], g[1:2])
    assert torch.equal(first.sq_norm, again.sq_norm)
    assert torch.equal(first.sq_norm[1:2], alone.sq_norm)


def test_cancellation_shows_in_the_ratio():
    a = randn(2, 1, 16).expand(2, 40, 16) + 1e-3 * randn(2, 40, 16)
    g = randn(2, 1, 40, 8)
    g -= g.mean(2, keepdim=True)
    sq_norm, uncancelled = ghost_norm.ghost_sq_norm(a, g)
    assert (sq_norm / uncancelled < 1e-4).all()


@pytest.mark.parametrize(
    "shape, stack, others, chunk",
    [
        ((768, 3072, 10), 1, 384, 5),  # 8 and 2 would end later
        ((2304, 256, 10), 1, 64, 4),  # 192 programs of 200
        ((2304, 256, 10), 1, 50, 3),
        ((2304, 256, 10), 1, 256, 10),
        ((4608, 512, 10), 4, 40, 4),
        ((4608, 512, 3), 4, 1, 4),
        ((768, 768, 1), 1, 1, 1),
        ((768, 768, 0), 1, 0, 0),
        ((64, 64, 1000), 1, 10**6, 8),
    ],
)
def test_chunks_are_even_and_keep_processors_busy(shape, stack, others, chunk):
    assert ghost_norm._chunk(shape, stack, others, 100) == chunk


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("t", [5, 40, 70])
def test_bits_do_not_depend_on_chunks(t, chunk, monkeypatch):
    a, g = randn(2, t, 24), randn(2, 5, t, 9)
    expected = ghost_norm.ghost_sq_norm(a, g)
    monkeypatch.setattr(ghost_norm, "_chunk", lambda shape, stack, *_: -(-chunk // stack) * stack)
    actual = ghost_norm.ghost_sq_norm(a, g)
    assert all(torch.equal(x, y) for x, y in zip(actual, expected, strict=True))
