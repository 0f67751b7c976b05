import pytest
import torch
from fastgradnorm_kernels import direct_norm, reference, tiles
from fastgradnorm_kernels.tiles import Tile

from tests.support.kernel_support import (
    DEVICE,
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
    pytest.param(2, 2, 64, 64, 64, id="one-tile"),
    pytest.param(3, 2, 45, 37, 10, id="ragged-narrow"),
    pytest.param(2, 2, 70, 65, 40, id="ragged"),
    pytest.param(1, 1, 1, 1, 1, id="scalar"),
    pytest.param(1, 2, 33, 130, 129, id="wide"),
]


def _pair(N, K, T, I, O, dtype):
    return randn(N, T, I, dtype=dtype), randn(N, K, T, O, dtype=dtype)


@product_modes
@pytest.mark.parametrize("N, K, T, I, O", SHAPES)
def test_direct_sq_norm(N, K, T, I, O, mode):
    a, g = map(guarded, _pair(N, K, T, I, O, mode.dtype))
    actual = direct_norm.direct_sq_norm(a, g, input_precision=mode.precision)
    ref = reference.direct_sq_norm(a, g)
    assert_within_budget(actual, ref, linear_oracle(a, g), mode.slack)


@product_modes
def test_only_what_is_needed(mode):
    a, g = map(guarded, _pair(3, 2, 20, 130, 200, mode.dtype))
    needed = torch.tensor([[True, False], [False, False], [True, True]], device=DEVICE)
    actual = direct_norm.direct_sq_norm(a, g, needed, input_precision=mode.precision)
    assert (actual[~needed] == 0).all()
    exact, ref = linear_oracle(a, g)[needed.cpu()], reference.direct_sq_norm(a, g)[needed]
    assert_within_budget(actual[needed], ref, exact, mode.slack)


@pytest.mark.parametrize("T", [32, 40])
@pytest.mark.parametrize("outputs_last", [True, False])
def test_a_tile_of_several_products(T, outputs_last, monkeypatch):
    # As TF32 has it on Hopper; the last tile has a product without any rows, and a ragged one.
    a, g = guarded(randn(2, T, 65)), randn(2, 3, T, 35)
    g = guarded(g) if outputs_last else guarded(g.mT).mT
    needed = torch.tensor([[True, False, True], [False, False, True]], device=DEVICE)
    tile = Tile(64, 32, 16, 2, 2)
    for some in (None, needed):
        whole = direct_norm.direct_sq_norm(a, g, some, tile=tile)
        with monkeypatch.context() as patches:
            patches.setattr(tiles, "product_rows", lambda *_: 16)
            parts = direct_norm.direct_sq_norm(a, g, some, tile=tile)
        torch.testing.assert_close(parts, whole, rtol=1e-6, atol=0)
        if some is not None:
            assert (parts[~some] == 0).all()


def test_only_hopper_makes_several_products_in_tf32(monkeypatch):
    tile = Tile(128, 64, 32, 4, 3)
    for capability, precision, rows in (
        ((9, 0), "tf32", 32),
        ((9, 0), "bf16x6", 128),
        ((8, 0), "tf32", 128),
        ((10, 0), "tf32", 128),
    ):
        monkeypatch.setattr(tiles, "gpu", lambda device, c=capability: ("", c))
        assert tiles.product_rows(tile, precision, torch.device("cpu")) == rows


@product_modes
@pytest.mark.parametrize("tile", [Tile(16, 32, 16, 1, 2), Tile(32, 16, 32, 2, 3)], ids=str)
@pytest.mark.parametrize("needed", [None, True])
def test_tiles_and_positions_last(tile, needed, mode):
    a, g = _pair(2, 3, 40, 65, 24, mode.dtype)
    a, g = guarded(a), guarded(g.mT).mT
    needed = None if needed is None else torch.ones(2, 3, dtype=torch.bool, device=DEVICE)
    actual = direct_norm.direct_sq_norm(a, g, needed, input_precision=mode.precision, tile=tile)
    ref = reference.direct_sq_norm(a, g)
    assert_within_budget(actual, ref, linear_oracle(a, g), mode.slack)


def test_more_rows_than_32_bits_number(monkeypatch):
    monkeypatch.setattr(direct_norm, "_MOST_ROWS", 15)
    a, g = map(guarded, _pair(2, 5, 3, 4, 7, torch.float32))
    needed = torch.tensor([[True, False, True, True, False]], device=DEVICE).expand(2, -1)
    expected = linear_oracle(a, g)
    for some in (None, needed):
        actual = direct_norm.direct_sq_norm(a, g, some)
        exact = expected if some is None else expected * some.cpu()
        assert_within_budget(actual, exact.float(), exact, 2e-6)


def test_more_tiles_than_a_program_takes():
    a, g = map(guarded, _pair(1, 2, 3, 1100, 17, torch.float32))
    needed = torch.ones(1, 2, dtype=torch.bool, device=DEVICE)
    actual = direct_norm.direct_sq_norm(a, g, needed)
    assert_within_budget(actual, reference.direct_sq_norm(a, g), linear_oracle(a, g), 2e-6)


@pytest.mark.parametrize(
    "shape",
    [(0, 2, 3, 4, 5), (2, 0, 3, 4, 5), (2, 2, 0, 4, 5), (2, 2, 3, 0, 5), (2, 2, 3, 4, 0)],
    ids=str,
)
def test_nothing_to_sum(shape):
    actual = direct_norm.direct_sq_norm(*_pair(*shape, torch.float32))
    assert actual.shape == shape[:2]
    assert (actual == 0).all()


# Interpreted they are IEEE products, summed as split ones are; the interpreter knows one name.
@pytest.mark.parametrize("precision", ["tf32x3", *(["bf16x6"] if DEVICE.type == "cuda" else [])])
def test_split_products_are_summed_outside_the_matrix_units(precision):
    a, g = map(guarded, _pair(1, 2, 70, 40, 9, torch.float32))
    actual = direct_norm.direct_sq_norm(a, g, input_precision=precision)
    ref = reference.direct_sq_norm(a, g)
    assert_within_budget(actual, ref, linear_oracle(a, g), 1e-5 if a.is_cuda else 2e-6)


def test_strides():
    a, g = _pair(2, 3, 9, 7, 5, torch.float32)
    expected = direct_norm.direct_sq_norm(a, g)
    for strided in ((scattered(a), scattered(g)), (a.mT.contiguous().mT, g.mT.contiguous().mT)):
        assert torch.equal(direct_norm.direct_sq_norm(*strided), expected)


def test_beyond_32_bits():
    a, g = _pair(3, 1, 4, 3, 2, torch.float16)
    far = direct_norm.direct_sq_norm(far_apart(a), far_apart(g))
    assert torch.equal(far, direct_norm.direct_sq_norm(a, g))
    a, g = _pair(1, 3, 4, 3, 2, torch.float16)
    far = direct_norm.direct_sq_norm(a, far_apart(g[0])[None])
    assert torch.equal(far, direct_norm.direct_sq_norm(a, g))


def test_same_bits_twice_and_alone():
    a, g = _pair(3, 2, 70, 20, 9, torch.float32)
    first, again = direct_norm.direct_sq_norm(a, g), direct_norm.direct_sq_norm(a, g)
    assert torch.equal(first, again)
    assert torch.equal(first[1:2], direct_norm.direct_sq_norm(a[1:2], g[1:2]))


def test_terms_that_cancel():
    a = randn(2, 1, 16).expand(2, 40, 16) + 1e-3 * randn(2, 40, 16)
    g = randn(2, 1, 40, 8)
    g -= g.mean(2, keepdim=True)
    exact = linear_oracle(a, g)
    error = (direct_norm.direct_sq_norm(a, g).double().cpu().sqrt() / exact.sqrt() - 1).abs()
    assert error.max() < 1e-5
