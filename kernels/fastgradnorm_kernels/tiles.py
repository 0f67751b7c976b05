"""Tile sizes of the product kernels: measured ones by the GPU's name, else ones that run anywhere.

Nothing is tuned at run time: a table is looked up. `python -m benchmarks gpu` times `candidates`
and says what to write here. The fallback depends on the compute capability alone, and keeps to the
shared memory that a block may have there.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch

# Bytes of shared memory a block may have. [CUDA programming guide, compute capabilities]
_LARGE, _MIDDLE, _SMALL = 232_448, 166_912, 101_376


class Tile(NamedTuple):
    """What one program forms at a time.

    Attributes:
        rows: Rows of the product: outputs of all cotangents (direct), positions (ghost).
        columns: Columns of the product: inputs (direct), positions (ghost).
        depth: How much is summed a step: positions (direct), features (ghost).
        warps: Warps of 32 threads.
        stages: Steps that are loaded ahead.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def fits(self, itemsize: int, shared: int) -> bool:
        """Whether the operands of all stages, at worst, are within so many bytes."""
        return (self.rows + self.columns) * self.depth * itemsize * self.stages <= shared


# By operation, arithmetic (see `arithmetic`) and whether the product is wide enough for it, from
# the best down: the first that fits into shared memory is taken.
_WIDE: dict[tuple[str, str], tuple[Tile, ...]] = {
    ("direct", "half"): (Tile(128, 128, 32, 8, 4),),
    ("direct", "tf32"): (Tile(128, 128, 16, 8, 4),),
    ("direct", "split"): (Tile(128, 128, 32, 8, 3),),
    ("direct", "ieee"): (Tile(128, 128, 16, 8, 3),),
    ("ghost", "half"): (Tile(64, 64, 64, 4, 4),),
    ("ghost", "tf32"): (Tile(64, 64, 32, 4, 4),),
    ("ghost", "split"): (Tile(64, 64, 32, 4, 3),),
    ("ghost", "ieee"): (Tile(64, 64, 16, 8, 3),),
}
# Steps loaded ahead by the GPU's generation, where with those above registers spill, as seen in
# machine code (`benchmarks/results/kernels_compiled.json`); none of it was run.
_STAGES = {("direct", "tf32", 10): 3}
# Direct norms in half precision on Hopper, and how fast each forms numbers beside the first.
_HOPPER_DIRECT = (
    (Tile(256, 128, 64, 8, 3), 1.0),
    (Tile(128, 128, 64, 8, 4), 0.8),
    (Tile(128, 64, 64, 4, 4), 0.76),
)
# Direct norms in TF32 on Hopper, whose products have few rows (see `product_rows`). Chosen from
# machine code, not timed: each thread loads whole vectors, and no register is spilled.
_HOPPER_TF32 = Tile(128, 64, 32, 4, 3)
# And in split products, with how long each takes for a number: by the instructions of its loop
# the second takes about a tenth longer, not timed.
_HOPPER_SPLIT = (Tile(128, 128, 32, 8, 3), 1.0), (Tile(128, 64, 32, 8, 3), 1.1)
# What a sweep tries beside those in use; the depth is as many times that of the tile in use.
_SWEEP: dict[str, tuple[tuple[int, int, int, int, int], ...]] = {
    "direct": (
        *((128, 256, 1, 8, 3), (256, 128, 1, 8, 3), (128, 128, 1, 8, 3), (128, 128, 1, 8, 4)),
        *((128, 64, 1, 4, 4), (64, 128, 1, 4, 4), (64, 64, 1, 4, 4)),
    ),
    "ghost": (
        *((128, 128, 1, 8, 3), (128, 128, 1, 8, 4), (128, 128, 1, 4, 3)),
        *((64, 64, 1, 4, 4), (64, 64, 1, 4, 3), (64, 64, 1, 4, 2)),
        *((64, 64, 2, 4, 3), (64, 64, 2, 4, 2), (32, 32, 2, 4, 3)),
    ),
}


def _hopper(operation: str, arithmetic: str, rows: int, columns: int) -> Tile | None:
    """Measured on an NVIDIA H200, bfloat16: `benchmarks/results/gpu_tiles.txt`.

    Wide tiles are a third faster than narrow ones where nothing of them is past the product's end.
    Of the few inputs of a model's first layer narrow ones take as long (0.34 and 0.35 ms, with
    channels last in memory or not, against 0.32 and 0.42 ms of the widest), and other layers have
    them compiled already.
    """
    if (operation, arithmetic) == ("direct", "tf32"):
        return _HOPPER_TF32 if rows > 16 else None
    if (operation, arithmetic) == ("direct", "split"):
        covered = {tile: -(-columns // tile.columns) * tile.columns for tile, _ in _HOPPER_SPLIT}
        return min(_HOPPER_SPLIT, key=lambda pair: covered[pair[0]] * pair[1])[0]
    if arithmetic != "half":
        return None
    if operation == "ghost":
        return Tile(128, 128, 64, 8, 4) if rows > 64 else Tile(64, 64, 64, 4, 2)

    if columns <= _HOPPER_DIRECT[0][0].columns and rows > _HOPPER_DIRECT[0][0].rows:
        return _HOPPER_DIRECT[-1][0]

    def cost(pair: tuple[Tile, float]) -> float:
        tile, rate = pair
        covered = -(-rows // tile.rows) * tile.rows * (-(-columns // tile.columns) * tile.columns)
        return covered / rate

    return min(_HOPPER_DIRECT, key=cost)[0]


# Measured tiles by a product's shape: of a GPU by the name that `torch.cuda.get_device_name` gives,
# else of its compute capability.
_MEASURED: dict[str | tuple[int, int], Callable[[str, str, int, int], Tile | None]] = {
    "NVIDIA H200": _hopper,
    (9, 0): _hopper,
}


def arithmetic(dtype: torch.dtype, input_precision: str) -> str:
    """How products of this dtype are formed: `"half"`, `"tf32"`, `"split"` or `"ieee"`."""
    if dtype != torch.float32:
        return "half"
    return input_precision if input_precision in ("ieee", "tf32") else "split"


def flattens(dtype: torch.dtype, input_precision: str, device: torch.device) -> bool:
    """Whether norms' kernels are compiled apart for windows that move along two dimensions.

    They count less. On Hopper's matrix units, where no register is spilled for that.
    """
    return arithmetic(dtype, input_precision) != "ieee" and gpu(device)[1] == (9, 0)


def shares(dtype: torch.dtype, input_precision: str, device: torch.device) -> bool:
    """Whether one kernel serves norms that differ in what costs next to nothing in its loop.

    On Hopper those of split products, by the instructions of their loops.
    """
    return arithmetic(dtype, input_precision) == "split" and gpu(device)[1] == (9, 0)


@functools.cache
def _gpu(index: int) -> tuple[str, tuple[int, int]]:
    return torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)


def gpu(device: torch.device) -> tuple[str, tuple[int, int]]:
    """Name and compute capability; of any other device those of a plain GPU."""
    if device.type != "cuda" or torch.version.cuda is None:
        return "", (8, 0)
    return _gpu(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _processors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def processors(device: torch.device) -> int:
    """Streaming multiprocessors; of any other device those of a plain GPU."""
    if device.type != "cuda" or torch.version.cuda is None:
        return 108
    return _processors(torch.cuda.current_device() if device.index is None else device.index)


# Registers that a thread may have, and threads of a warp.
_MOST_REGISTERS, _REGISTERS, _WARP = 255, 1 << 16, 32


def registers(device: torch.device, warps: int) -> dict[str, int]:
    """Options of a launch with so many warps: all registers, where the assembler would spill some.

    Of Blackwell's it keeps a part free for other blocks by itself, and spills a few words for that.
    """
    fits = warps * _WARP * _MOST_REGISTERS <= _REGISTERS
    return {"maxnreg": _MOST_REGISTERS} if fits and gpu(device)[1] >= (10, 0) else {}


def shared_memory(capability: tuple[int, int]) -> int:
    """Bytes of shared memory that a block may have."""
    if capability[0] in (9, 10):
        return _LARGE
    return _MIDDLE if capability in ((8, 0), (8, 7)) else _SMALL


def choose(
    operation: str,
    dtype: torch.dtype,
    input_precision: str,
    shape: tuple[int, int],
    vectors: bool,
    device: torch.device,
) -> Tile:
    """The tile for an operation (`"direct"`, `"ghost"`) that forms a product of this shape.

    Where operands cannot be loaded by whole `vectors` each number has an address of its own: a
    thread must have fewer of them, or its registers spill.
    """
    name, capability = gpu(device)
    kind = (operation, arithmetic(dtype, input_precision))
    shared = shared_memory(capability)
    measured = _MEASURED.get(name) or _MEASURED.get(capability)
    tile = measured(*kind, *shape) if measured else None
    if tile is None:
        tile = next(tile for tile in _WIDE[kind] if tile.fits(dtype.itemsize, shared))
    tile = tile._replace(stages=_STAGES.get((*kind, capability[0]), tile.stages))
    if not vectors:
        tile = small(tile)._replace(warps=8 if operation == "ghost" else 4)
    if kind[1] == "split" and capability != (9, 0):
        # Parts of both operands are in registers, but for Hopper's matrix units, which read memory.
        columns = 32 if operation == "direct" else 64
        tile = small(tile)._replace(columns=columns, depth=16, warps=8)
    if operation == "direct":
        return _narrowed(tile, *shape)
    # Products off the matrix units hold operands in registers too, beside both Grams.
    spills = kind[1] == "ieee" and (not vectors or shape[0] <= 32)
    return tile._replace(rows=32, columns=32, warps=4 if vectors else 8) if spills else tile


# Exact products, of operands that are four numbers of half precision, as they were fastest on an
# NVIDIA H100 and H200 (`benchmarks/results/gpu_exact.json`): of many columns, of those so few rows
# that processors would be idle, and of few columns. A row's bits do not depend on how many rows
# there are: the first two sum over as much a step. Elsewhere one that spills nowhere.
_HOPPER_EXACT = Tile(128, 128, 64, 8, 3), Tile(64, 64, 64, 4, 3), Tile(128, 64, 32, 4, 4)
_EXACT = Tile(64, 64, 32, 4, 3)
# Columns from which on there are many. Of 128 to 512, among which a network's layers often have 64,
# the first two would save 4 to 10 % of a product's time there, which is under 1 % of a ResNet-18's
# pass, and take a second of compilation.
_MANY_COLUMNS = 768


def exact(rows: int, columns: int, device: torch.device) -> Tile:
    """The tile of an exact product of so many rows and columns."""
    if gpu(device)[1] != (9, 0):
        return _EXACT
    wide, small, narrow = _HOPPER_EXACT
    if columns < _MANY_COLUMNS:
        return narrow
    programs = -(-rows // wide.rows) * -(-columns // wide.columns)
    return wide if programs >= processors(device) else small


# Rows of a product that are too few for the matrix instructions of four warps together.
_FEW_ROWS = 32


def product_rows(tile: Tile, input_precision: str, device: torch.device) -> int:
    """Rows of the products that a tile of direct norms is made of, all of which one would be.

    Hopper's matrix instructions take TF32 numbers only as they are summed over, neighbours in
    memory, which positions of gradients are not: operands would be turned around, number by
    number. Of few rows the compiler makes products by the instructions of single warps, which take
    them as they lie.
    """
    turned = input_precision == "tf32" and gpu(device)[1][0] == 9
    return min(_FEW_ROWS, tile.rows) if turned else tile.rows


def _narrowed(tile: Tile, rows: int, columns: int) -> Tile:
    """No wider than the product; fewer warps for fewer numbers."""
    rows, columns = (
        max(16, min(most, 1 << (max(1, size) - 1).bit_length()))
        for most, size in ((tile.rows, rows), (tile.columns, columns))
    )
    numbers = rows * columns
    warps = tile.warps if numbers >= 1 << 13 else min(tile.warps, 4 if numbers >= 1 << 11 else 2)
    return tile._replace(rows=rows, columns=columns, warps=warps)


def small(tile: Tile) -> Tile:
    """For programs that mostly have nothing to do: many of them stay on a processor at once."""
    rows, columns = min(64, tile.rows), min(64, tile.columns)
    return tile._replace(rows=rows, columns=columns, warps=min(4, tile.warps), stages=2)


def candidates(
    operation: str, dtype: torch.dtype, input_precision: str, device: torch.device
) -> list[Tile]:
    """Tiles that a sweep of `operation` should try on this device, the one in use first."""
    kind = (operation, arithmetic(dtype, input_precision))
    depth = _WIDE[kind][0].depth
    used = choose(operation, dtype, input_precision, (1 << 20, 1 << 20), True, device)
    more = [Tile(r, c, depth * d, w, s) for r, c, d, w, s in _SWEEP[operation]]
    shared = shared_memory(gpu(device)[1])
    found = dict.fromkeys([used, *_WIDE[kind], *more])
    return [tile for tile in found if tile.fits(dtype.itemsize, shared)]
