r"""Convolutions and their pull-backs, exact in float32, by products of half precision.

A float32 product is three of half precision, `x w = x_high w_high + x_high w_low + x_low w_high`,
to within `2^-23`: on matrix units, which have 15 times the rate of float32, or more. Sums over one
step are formed there, small terms first, and added up outside, as matrix units cut sums off.

Forward or back, output position `y` of a phase has inputs at `y step + first + tap each` in each
dimension: a pull-back with a stride has as many phases as positions between two outputs, each with
taps of its own. Positions of all rows are the product's rows, output channels its columns, and it
sums over taps and input channels, which are last in memory.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels import half_parts, tiles
from fastgradnorm_kernels._addresses import aligned
from fastgradnorm_kernels._launch import LAUNCH
from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.half_parts import Weights
from fastgradnorm_kernels.shapes import Float
from fastgradnorm_kernels.tiles import Tile

# Rows of a product that 32 bits number, with what a tile has beyond them.
_MOST_ROWS = 2**31 - 2**16
# Columns of the table of phases: first output, first input, taps and positions in each dimension,
# and the place of the first tap's weights.
_FIRST_OUT, _FIRST_IN, _TAPS, _SIZES, _PLACE, _FACTS = 0, 3, 6, 9, 12, 16


class Plan(NamedTuple):
    """A convolution, or a pull-back, with its weights in the order in which they are read.

    Attributes:
        weights: Of all phases' taps, one phase after the other.
        phases: `[phases, 16]`, int32, see `_FACTS`.
        most: Positions of the phase that has most.
        space: Sizes of the input, of three dimensions.
        out: Sizes of the output.
        step: Inputs from one output of a phase to the next.
        out_step: Outputs from one of a phase to the next.
        each: Inputs from one tap of a phase to the next.
        shape: Of the output without its rows and channels, in the caller's dimensions.
    """

    weights: Weights
    phases: Tensor
    most: int
    space: tuple[int, ...]
    out: tuple[int, ...]
    step: tuple[int, ...]
    out_step: tuple[int, ...]
    each: tuple[int, ...]
    shape: tuple[int, ...]


def _three(values: Sequence[int], fill: int) -> tuple[int, ...]:
    return (fill,) * (3 - len(values)) + tuple(values)


def _weights(weight: Tensor) -> Tensor:
    """`[O, I, *kernel]` with three dimensions of space."""
    return weight.reshape(*weight.shape[:2], *_three(weight.shape[2:], 1))


def forward_plan(weight: Tensor, geometry: Geometry, space: Sequence[int]) -> Plan:
    """Of a convolution of an input of that size."""
    out = geometry.out(space)
    taps, step, pads, each = (
        _three(values, fill) for values, fill in zip(geometry, (1, 1, 0, 1), strict=True)
    )
    sizes = _three(out, 1)
    row = [0, 0, 0, *(-pad for pad in pads), *taps, *sizes, 0, 0, 0, 0]
    ordered = _weights(weight).permute(2, 3, 4, 1, 0).flatten(0, 2)  # [taps, I, O]
    phases = torch.tensor([row], dtype=torch.int32, device=weight.device)
    return Plan(
        half_parts.split_weights(ordered),
        *(phases, math.prod(sizes), _three(space, 1), sizes),
        *(step, (1, 1, 1), each, tuple(out)),
    )


def pull_plan(weight: Tensor, geometry: Geometry, space: Sequence[int]) -> Plan:
    """Of a convolution's pull-back to an input of that size."""
    kernel, stride, pads, dilation = (
        _three(values, fill) for values, fill in zip(geometry, (1, 1, 0, 1), strict=True)
    )
    sizes = _three(space, 1)
    # Taps of a phase are so far from each other that what they read is a whole number of strides.
    apart = [s // math.gcd(s, d) for s, d in zip(stride, dilation, strict=True)]
    each = tuple(-a * d // s for a, d, s in zip(apart, dilation, stride, strict=True))
    rows, chosen, place = [], [], 0
    for phase in itertools.product(*map(range, stride)):
        found = [
            _phase(*facts)
            for facts in zip(phase, kernel, stride, pads, dilation, apart, sizes, strict=True)
        ]
        firsts, inputs, held = zip(*found, strict=True)
        taps = [range(*of_dim) for of_dim in zip(firsts, kernel, apart, strict=True)]
        counts = [len(of_dim) for of_dim in taps]
        rows.append([*phase, *inputs, *counts, *held, place, 0, 0, 0])
        chosen += list(itertools.product(*taps))
        place += math.prod(counts)
    index = torch.tensor(chosen, device=weight.device).T
    ordered = _weights(weight).permute(2, 3, 4, 0, 1)[tuple(index)]  # [taps, O, I]
    return Plan(
        half_parts.split_weights(ordered),
        torch.tensor(rows, dtype=torch.int32, device=weight.device),
        max(math.prod(row[_SIZES : _SIZES + 3]) for row in rows),
        _three(geometry.out(space), 1),
        *(sizes, (1, 1, 1), stride, each, tuple(space)),
    )


def _phase(
    phase: int, kernel: int, stride: int, pad: int, dilation: int, apart: int, size: int
) -> tuple[int, int, int]:
    """Its first tap in one dimension, what that reads for its first output, and its outputs."""
    positions = -(-(size - phase) // stride) if phase < size else 0
    for tap in range(min(apart, kernel)):
        if (phase + pad - tap * dilation) % stride == 0:
            return tap, (phase + pad - tap * dilation) // stride, positions
    return kernel, 0, positions


@triton.jit
def _fact(phases_ptr, phase, column: tl.constexpr, FACTS: tl.constexpr):
    """Three numbers of a phase."""
    place = phases_ptr + phase * FACTS + column
    return tl.load(place), tl.load(place + 1), tl.load(place + 2)


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
    if POINTWISE:
        size_z, size_y, size_x = 1, 1, 1
    m = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    present = m < rows * size_z * size_y * size_x
    m = tl.where(present, m, 0)
    # Of a phase without positions nothing is present: it must not be divided by zero, no more.
    size_z, size_y, size_x = tl.maximum(size_z, 1), tl.maximum(size_y, 1), tl.maximum(size_x, 1)
    x, y = m % size_x, m // size_x % size_y
    z, row = m // size_x // size_y % size_z, m // size_x // size_y // size_z
    from_row = tl.cast(row, tl.int64) * (SPACE_Z * SPACE_Y * SPACE_X * channels)
    from_z, from_y, from_x = z * STEP_Z + first_z, y * STEP_Y + first_y, x * STEP_X + first_x
    c, column = tl.arange(0, BLOCK_C), column_tile * BLOCK_O + tl.arange(0, BLOCK_O)
    within = column < columns
    column = tl.where(within, column, 0)
    column = tl.max_contiguous(tl.multiple_of(column, VECTOR), VECTOR)
    place = tl.load(phases_ptr + phase * FACTS + PLACE)
    weights = (place * channels + c)[:, None] * columns + column[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_O], tl.float32)
    tap_z, tap_y, tap_x, channel = 0, 0, 0, 0
    for _ in range(taps_z * taps_y * taps_x * (channels // BLOCK_C)):
        if POINTWISE:
            inside = present
            source = from_row + channel
        else:
            in_z, in_y = from_z + tap_z * EACH_Z, from_y + tap_y * EACH_Y
            in_x = from_x + tap_x * EACH_X
            inside = present & (in_z >= 0) & (in_z < SPACE_Z) & (in_y >= 0) & (in_y < SPACE_Y)
            inside &= (in_x >= 0) & (in_x < SPACE_X)
            source = from_row + (((in_z * SPACE_Y + in_y) * SPACE_X + in_x) * channels + channel)
        source = tl.multiple_of(source, BLOCK_C)[:, None] + c[None, :]
        high = tl.load(high_ptr + source, mask=inside[:, None], other=0.0)
        low = tl.load(low_ptr + source, mask=inside[:, None], other=0.0)
        weight_high = tl.load(weight_high_ptr + weights)
        weight_low = tl.load(weight_low_ptr + weights)
        part = tl.dot(low, weight_high)
        part = tl.dot(high, weight_low, part)
        part = tl.dot(high, weight_high, part)
        total += part
        weights += BLOCK_C * columns
        channel += BLOCK_C
        if not POINTWISE:
            done = (channel >= channels).to(tl.int32)
            channel *= 1 - done
            tap_x += done
            done = (tap_x >= taps_x).to(tl.int32)
            tap_x *= 1 - done
            tap_y += done
            done = (tap_y >= taps_y).to(tl.int32)
            tap_y *= 1 - done
            tap_z += done
    total *= tl.load(inverse_ptr + row)[:, None]
    total *= tl.load(weight_inverse_ptr + column)[None, :]
    if HAS_BIAS:
        total += tl.load(bias_ptr + column)[None, :]
    out_z, out_y, out_x = _fact(phases_ptr, phase, FIRST_OUT, FACTS)
    out_z, out_y, out_x = out_z + z * OUT_STEP_Z, out_y + y * OUT_STEP_Y, out_x + x * OUT_STEP_X
    target = (tl.cast(row, tl.int64) * OUT_Z + out_z) * OUT_Y + out_y
    target = (target * OUT_X + out_x) * columns
    target = tl.multiple_of(target, VECTOR)[:, None] + column[None, :]
    tl.store(out_ptr + target, total, mask=present[:, None] & within[None, :])


def fits(inputs: int, outputs: int) -> bool:
    """Whether that many channels are whole vectors, and whole steps of matrix units."""
    return inputs % 16 == 0 and outputs % 8 == 0


def convolve(
    x: Float[Tensor, "R *space C"],
    plan: Plan,
    bias: Float[Tensor, " O"] | None = None,
    tile: Tile | None = None,
) -> Float[Tensor, "R *out O"]:
    """What the plan says, of float32 numbers with their channels last, in memory too."""
    rows, channels = len(x), x.shape[-1]
    weights = plan.weights
    columns = weights.high.shape[-1]
    if rows > 1 and rows * plan.most >= _MOST_ROWS:
        halves = x[: rows // 2], x[rows // 2 :]
        return torch.cat([convolve(half, plan, bias, tile) for half in halves])
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
    tile = tile or tiles.exact(columns, x.device)
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
        VECTOR=math.gcd(columns, 8),
        FIRST_OUT=_FIRST_OUT,
        FIRST_IN=_FIRST_IN,
        TAPS=_TAPS,
        SIZES=_SIZES,
        PLACE=_PLACE,
        FACTS=_FACTS,
        BLOCK_M=tile.rows,
        BLOCK_O=tile.columns,
        BLOCK_C=depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **LAUNCH,
    )
    return out
