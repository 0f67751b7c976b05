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
    monkeypatch.setitem(
        tiles._MEASURED, "GPU X", lambda operation, *_: measured if operation == "direct" else None
    )
    arguments = (torch.bfloat16, "ieee", (10_000, 10_000), True, CPU)
    assert tiles.choose("direct", *arguments) == measured
    assert tiles.choose("ghost", *arguments) == tiles._WIDE["ghost", "half"][0]
    assert tiles.candidates("direct", torch.bfloat16, "ieee", CPU)[0] == measured


# Rows and columns of layers of a ResNet-18, a ViT-B/16 and BERT, and what the sweep found best; of
# the ResNet's first layer, what is as fast as that over both layouts and compiled for others too.
HOPPER = [
    ("direct", (640, 576), Tile(128, 64, 64, 4, 4)),
    ("direct", (1280, 576), Tile(256, 128, 64, 8, 3)),
    ("direct", (1280, 1152), Tile(256, 128, 64, 8, 3)),
    ("direct", (7680, 768), Tile(256, 128, 64, 8, 3)),
    ("direct", (640, 72), Tile(128, 64, 64, 4, 4)),
    ("direct", (64, 4608), Tile(64, 128, 64, 8, 4)),
    ("direct", (10, 72), Tile(16, 128, 64, 4, 4)),
    ("ghost", (512, 512), Tile(128, 128, 64, 8, 4)),
    ("ghost", (197, 197), Tile(128, 128, 64, 8, 4)),
    ("ghost", (64, 64), Tile(64, 64, 64, 4, 2)),
    ("ghost", (16, 16), Tile(64, 64, 64, 4, 2)),
]


@pytest.mark.parametrize("name", ["NVIDIA H200", "NVIDIA H100 80GB HBM3"])
@pytest.mark.parametrize("operation, shape, best", HOPPER)
def test_on_hopper_the_sweep_decides(operation, shape, best, name, monkeypatch):
    monkeypatch.setattr(tiles, "gpu", lambda device: (name, (9, 0)))
    assert tiles.choose(operation, torch.bfloat16, "ieee", shape, True, CPU) == best
    assert tiles.choose(operation, torch.float32, "ieee", shape, True, CPU).warps <= 8


@pytest.mark.parametrize("other", [(8, 0), (8, 6), (8, 9), (12, 0)])
def test_other_gpus_take_no_tile_measured_on_hopper(other, monkeypatch):
    monkeypatch.setattr(tiles, "gpu", lambda device: ("", other))
    tile = tiles.choose("direct", torch.bfloat16, "ieee", (1280, 1152), True, CPU)
    assert tile in tiles._WIDE["direct", "half"]


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


def test_exact_products_sum_alike_however_many_rows_there_are(monkeypatch):
    monkeypatch.setattr(tiles, "gpu", lambda device: ("", (9, 0)))
    device = torch.device("cpu")
    few, many = (tiles.exact(rows, 1024, device) for rows in (64, 1 << 20))
    assert few != many
    assert few.depth == many.depth
    # Of a network's narrower layers there is one, which is compiled once.
    narrow = {tiles.exact(rows, columns, device) for rows in (64, 1 << 20) for columns in (64, 512)}
    assert len(narrow) == 1
    assert all(tile.columns <= 64 for tile in narrow)


def test_split_products_are_narrow_where_that_saves_more_than_it_costs(monkeypatch):
    monkeypatch.setattr(tiles, "gpu", lambda device: ("", (9, 0)))
    for inputs, columns in ((36, 64), (64, 64), (128, 128), (576, 64), (1152, 128), (10_000, 128)):
        tile = tiles.choose("direct", torch.float32, "bf16x6", (640, inputs), True, CPU)
        assert tile == Tile(128, columns, 32, 8, 3)


@pytest.mark.parametrize("other, warps", [((9, 0), 4), ((8, 0), 8), ((10, 0), 16), ((12, 0), 32)])
def test_elsewhere_the_assembler_decides_on_registers(other, warps, monkeypatch):
    monkeypatch.setattr(tiles, "gpu", lambda device: ("GPU X", other))
    assert tiles.registers(CPU, warps) == {}


@pytest.mark.parametrize("blackwell", [(10, 0), (10, 3), (12, 0)], ids=str)
@pytest.mark.parametrize("warps", [1, 4, 8])
def test_blackwell_may_use_all_registers(blackwell, warps, monkeypatch):
    monkeypatch.setattr(tiles, "gpu", lambda device: ("GPU X", blackwell))
    assert tiles.registers(CPU, warps) == {"maxnreg": 255}


@pytest.mark.parametrize("dtype, precision", ARITHMETIC)
def test_on_hopper_alone_kernels_differ_in_what_was_seen_to_pay(dtype, precision, capability):
    hopper, ieee = capability == (9, 0), (dtype, precision) == (torch.float32, "ieee")
    assert tiles.flattens(dtype, precision, CPU) == (hopper and not ieee)
    split = precision in ("tf32x3", "bf16x6")
    assert tiles.shares(dtype, precision, CPU) == (hopper and split)
