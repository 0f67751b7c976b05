r"""Convolutions and their pull-backs, exact in float32, by products of half precision.

A float32 product is three of half precision, `x w = x_high w_high + x_high w_low + x_low w_high`,
to within `2^-23`: on matrix units, which have 15 times the rate of float32, or more. Sums over one
step are formed there, small terms first, and added up outside, as matrix units cut sums off.

Positions of all rows are the product's rows, output channels its columns, and it sums over taps and
input channels, which are last in memory; see `exact_plans`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels import exact_plans, half_parts, tiles
from fastgradnorm_kernels._addresses import aligned
from fastgradnorm_kernels._launch import LAUNCH
from fastgradnorm_kernels.exact_plans import Plan
from fastgradnorm_kernels.half_parts import Weights
from fastgradnorm_kernels.shapes import Float
from fastgradnorm_kernels.tiles import Tile

# Rows of a product that 32 bits number, with what a tile has beyond them.
_MOST_ROWS = 2**31 - 2**16


@triton.jit
def _fact(phases_ptr, phase, column: tl.constexpr, FACTS: tl.constexpr):
    """Three numbers of a phase."""
    place = phases_ptr + phase * FACTS + column
    return tl.load(place), tl.load(place + 1), tl.load(place + 2)


@triton.jit
def _positions(m, size_z, size_y, size_x, FLAT: tl.constexpr):
    """The row that each is of, and where it is in space."""
    # Of a phase without positions nothing is present: it must not be divided by zero, no more.
    size_z, size_y, size_x = tl.maximum(size_z, 1), tl.maximum(size_y, 1), tl.maximum(size_x, 1)
    row, y, x = m // size_x // size_y, m // size_x % size_y, m % size_x
    z = tl.zeros_like(row)
    if not FLAT:
        row, z = row // size_z, row % size_z
    return row, z, y, x


@triton.jit
def _places(in_z, in_y, in_x, SPACE_Z, SPACE_Y, SPACE_X, FLAT: tl.constexpr):
    """Inputs as they are numbered, and whether there are any."""
    inside = (in_y >= 0) & (in_y < SPACE_Y) & (in_x >= 0) & (in_x < SPACE_X)
    if not FLAT:
        inside &= (in_z >= 0) & (in_z < SPACE_Z)
        in_y += in_z * SPACE_Y
    return in_y * SPACE_X + in_x, inside


@triton.jit
def _carried(digit, next, base):
    """Two digits of a number, the lower of which has just been counted up."""
    full = (digit >= base).to(tl.int32)
    return digit * (1 - full), next + full


@triton.jit(
    do_not_specialize=[
        *("rows", "channels", "columns", "row_tiles", "column_tiles"),
        *(
            f"{name}_{dim}"
            for name in ("SPACE", "OUT", "STEP", "OUT_STEP", "EACH")
            for dim in "ZYX"
        ),
    ]
)
def _exact_convolution_kernel(
    high_ptr,  # [rows, *SPACE, channels], float16
    low_ptr,
    inverse_ptr,  # [rows]
    weight_high_ptr,  # [taps, channels, columns], float16
    weight_low_ptr,
    weight_inverse_ptr,  # [columns]
    bias_ptr,  # [columns]
    phases_ptr,  # [phases, FACTS], int32
    out_ptr,  # [rows, *OUT, columns], float32
    rows,
    channels,
    columns,
    row_tiles,
    column_tiles,
    SPACE_Z,
    SPACE_Y,
    SPACE_X,
    OUT_Z,
    OUT_Y,
    OUT_X,
    STEP_Z,
    STEP_Y,
    STEP_X,
    OUT_STEP_Z,
    OUT_STEP_Y,
    OUT_STEP_X,
    EACH_Z,
    EACH_Y,
    EACH_X,
    HAS_BIAS: tl.constexpr,
    POINTWISE: tl.constexpr,
    FLAT: tl.constexpr,  # nothing is along the first of three dimensions
    VECTOR: tl.constexpr,
    FIRST_OUT: tl.constexpr,
    FIRST_IN: tl.constexpr,
    TAPS: tl.constexpr,
    SIZES: tl.constexpr,
    PLACE: tl.constexpr,
    FACTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    column_tile = tl.program_id(0) % column_tiles
    row_tile = tl.program_id(0) // column_tiles % row_tiles
    phase = tl.program_id(0) // column_tiles // row_tiles
    channels, columns = aligned(channels, BLOCK_C), aligned(columns, VECTOR)
    size_z, size_y, size_x = _fact(phases_ptr, phase, SIZES, FACTS)
    taps_z, taps_y, taps_x = _fact(phases_ptr, phase, TAPS, FACTS)
    first_z, first_y, first_x = _fact(phases_ptr, phase, FIRST_IN, FACTS)
    if FLAT:
        size_z = 1
    if POINTWISE:
        size_y, size_x = 1, 1
    m = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    present = m < rows * size_z * size_y * size_x
    row, z, y, x = _positions(tl.where(present, m, 0), size_z, size_y, size_x, FLAT)
    from_row = tl.cast(row, tl.int64) * (SPACE_Z * SPACE_Y * SPACE_X * channels)
    from_z, from_y, from_x = z * STEP_Z + first_z, y * STEP_Y + first_y, x * STEP_X + first_x
    c, column = tl.arange(0, BLOCK_C), column_tile * BLOCK_O + tl.arange(0, BLOCK_O)
    within = column < columns
    column = tl.max_contiguous(tl.multiple_of(tl.where(within, column, 0), VECTOR), VECTOR)
    first = tl.load(phases_ptr + phase * FACTS + PLACE)
    weights = (first * channels + c)[:, None] * columns + column[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_O], tl.float32)
    tap_z, tap_y, tap_x, channel = 0, 0, 0, 0
    for _ in range(taps_z * taps_y * taps_x * (channels // BLOCK_C)):
        if POINTWISE:
            inside = present
            source = from_row + channel
        else:
            in_z, in_y = from_z + tap_z * EACH_Z, from_y + tap_y * EACH_Y
            in_x = from_x + tap_x * EACH_X
            place, inside = _places(in_z, in_y, in_x, SPACE_Z, SPACE_Y, SPACE_X, FLAT)
            inside &= present
            source = from_row + (place * channels + channel)
        source = tl.multiple_of(source, BLOCK_C)[:, None] + c[None, :]
        high = tl.load(high_ptr + source, mask=inside[:, None], other=0.0)
        low = tl.load(low_ptr + source, mask=inside[:, None], other=0.0)
        weight_high = tl.load(weight_high_ptr + weights)
        weight_low = tl.load(weight_low_ptr + weights)
        part = tl.dot(low, weight_high)
        part = tl.dot(high, weight_low, part)
        part = tl.dot(high, weight_high, part)
        total += part
        weights, channel = weights + BLOCK_C * columns, channel + BLOCK_C
        if not POINTWISE:
            channel, tap_x = _carried(channel, tap_x, channels)
            tap_x, tap_y = _carried(tap_x, tap_y, taps_x)
            if not FLAT:
                tap_y, tap_z = _carried(tap_y, tap_z, taps_y)
    total *= tl.load(inverse_ptr + row)[:, None]
    total *= tl.load(weight_inverse_ptr + column)[None, :]
    if HAS_BIAS:
        total += tl.load(bias_ptr + column)[None, :]
    out_z, out_y, out_x = _fact(phases_ptr, phase, FIRST_OUT, FACTS)
    out_z, out_y, out_x = out_z + z * OUT_STEP_Z, out_y + y * OUT_STEP_Y, out_x + x * OUT_STEP_X
    target = tl.cast(row, tl.int64)
    target = (target if FLAT else target * OUT_Z + out_z) * OUT_Y + out_y
    target = (target * OUT_X + out_x) * columns
    target = tl.multiple_of(target, VECTOR)[:, None] + column[None, :]
    tl.store(out_ptr + target, total, mask=present[:, None] & within[None, :])


def fits(inputs: int, outputs: int) -> bool:
    """Whether that many channels are whole vectors, and whole steps of matrix units."""
    return inputs % 16 == 0 and outputs % 8 == 0


def convolve(
    x: Float[Tensor, "R *space C"],
    plan: Plan,
    weights: Weights,
    bias: Float[Tensor, " O"] | None = None,
    tile: Tile | None = None,
) -> Float[Tensor, "R *out O"]:
    """What the plan says, of float32 numbers with their channels last and `plan.weights`."""
    rows, channels = len(x), x.shape[-1]
    columns = weights.high.shape[-1]
    if rows > 1 and rows * plan.most >= _MOST_ROWS:
        halves = x[: rows // 2], x[rows // 2 :]
        return torch.cat([convolve(half, plan, weights, bias, tile) for half in halves])
    # Where each position is a product of its own they are rows, each with a scale of its own.
    pointwise = len(plan.phases) == 1 and plan.space == plan.out and len(weights.high) == 1
    x = x.contiguous()
    out = torch.empty(rows, *plan.shape, columns, dtype=torch.float32, device=x.device)
    if not out.numel():
        return out
    apart = x.view(-1, 1, channels) if pointwise else x.view(rows, -1, channels)
    parts = half_parts.split(apart, weights.balance)
    space, sizes, most = plan.space, plan.out, plan.most
    if pointwise:
        rows, space, sizes, most = len(apart), (1, 1, 1), (1, 1, 1), 1
    tile = tile or tiles.exact(rows * most, columns, x.device)
    depth = math.gcd(tile.depth, channels)
    row_tiles, column_tiles = (
        triton.cdiv(rows * most, tile.rows),
        triton.cdiv(columns, tile.columns),
    )
    grid = (row_tiles * column_tiles * len(plan.phases),)
    _exact_convolution_kernel[grid](
        *(parts.high, parts.low, parts.inverse, weights.high, weights.low, weights.inverse),
        *(out if bias is None else bias, plan.phases, out),
        *(rows, channels, columns, row_tiles, column_tiles),
        *(*space, *sizes, *plan.step, *plan.out_step, *plan.each),
        HAS_BIAS=bias is not None,
        POINTWISE=pointwise,
        FLAT=pointwise or len(plan.shape) < 3,
        VECTOR=math.gcd(columns, 8),
        FIRST_OUT=exact_plans.FIRST_OUT,
        FIRST_IN=exact_plans.FIRST_IN,
        TAPS=exact_plans.TAPS,
        SIZES=exact_plans.SIZES,
        PLACE=exact_plans.PLACE,
        FACTS=exact_plans.FACTS,
        BLOCK_M=tile.rows,
        BLOCK_O=tile.columns,
        BLOCK_C=depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **LAUNCH,
    )
    return out
