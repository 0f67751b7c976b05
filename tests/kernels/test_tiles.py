import itertools

import pytest
import torch
from fastgradnorm_kernels import tiles
from fastgradnorm_kernels.tiles import Tile

CPU = torch.device("cpu")
CAPABILITIES = [(8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (13, 0)]
ARITHMETIC = [
    (torch.bfloat16, "ieee"),
    (torch.float16, "tf32"),
    *((torch.float32, precision) for precision in ("ieee", "tf32", "tf32x3", "bf16x6")),
]
# Products of the widest and of hardly any size, and operands that are not loaded by vectors.
SHAPES = list(itertools.product([1, 10, 100, 10_000], [0, 27, 4608], [True, False]))


@pytest.fixture(params=CAPABILITIES, ids=str)
def capability(request, monkeypatch):
    monkeypatch.setattr(tiles, "gpu", lambda device: ("a GPU of tomorrow", request.param))
    return request.param


@pytest.mark.parametrize("operation", ["direct", "ghost"])
@pytest.mark.parametrize("dtype, precision", ARITHMETIC)
def test_the_fallback_fits_any_gpu(operation, dtype, precision, capability):
    shared = tiles.shared_memory(capability)
    for rows, columns, vectors in SHAPES:
        tile = tiles.choose(operation, dtype, precision, (rows, columns), vectors, CPU)
        assert tile.fits(dtype.itemsize, shared)
        assert tiles.small(tile).fits(dtype.itemsize, shared)
        assert min(tile.rows, tile.columns, tile.depth) >= 16
        # A program needs at least one number a thread, and no more registers than there are.
        assert 32 * tile.warps <= tile.rows * tile.columns <= 128 * 32 * tile.warps


@pytest.mark.parametrize("operation", ["direct", "ghost"])
@pytest.mark.parametrize("dtype, precision", ARITHMETIC)
def test_a_sweep_tries_what_is_used_first(operation, dtype, precision, capability):
    found = tiles.candidates(operation, dtype, precision, CPU)
    assert found[0] == tiles.choose(operation, dtype, precision, (10_000, 10_000), True, CPU)
    assert len(found) > 2
    assert len(set(found)) == len(found)
    shared = tiles.shared_memory(capability)
    assert all(tile.fits(dtype.itemsize, shared) for tile in found)


def test_a_measured_tile_goes_before(monkeypatch):
    measured = Tile(256, 128, 64, 8, 2)
    monkeypatch.setattr(tiles, "gpu", lambda device: ("GPU X", (9, 0)))
    monkeypatch.setitem(tiles._BY_NAME, "GPU X", {("direct", "half"): measured})
    arguments = (torch.bfloat16, "ieee", (10_000, 10_000), True, CPU)
    assert tiles.choose("direct", *arguments) == measured
    assert tiles.choose("ghost", *arguments) == tiles._WIDE["ghost", "half"][0]
    assert tiles.candidates("direct", torch.bfloat16, "ieee", CPU)[0] == measured


def test_tiles_are_no_wider_than_products():
    def chosen(*shape):
        return tiles.choose("direct", torch.bfloat16, "ieee", shape, True, CPU)[:2]

    assert chosen(640, 576) == (128, 128)
    assert chosen(640, 40) == (128, 64)
    assert chosen(10, 72) == (16, 128)
    assert chosen(1, 1) == chosen(0, 0) == (16, 16)


def test_other_devices_are_plain_gpus():
    assert tiles.gpu(CPU) == ("", (8, 0))
    assert tiles.gpu(torch.device("meta")) == ("", (8, 0))
