r"""`‖Σ_t g_t a_tᵀ‖²`: a weight gradient's squared norm by tiles of the gradient.

The outputs of all K cotangents are so many rows of one product `[K O, T] [T, I]` a sample. A
program owns BLOCK_O of its rows and TILES column tiles [BLOCK_O, BLOCK_I], forms each by sweeping
the positions, squares it and adds up its rows. No [O, I] matrix reaches memory. A tile is one
product, or several of PART_O rows each, see `tiles.product_rows`.

With `needed` [N, K] only the marked norms are formed and the others are zero, decided on the GPU:
the few ghost norms whose terms cancelled are recomputed without waiting for the host. There a
program owns several row tiles, and most have nothing to do.
"""

# ruff: noqa: RUF005 - Triton knows no starred expressions
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,assignment"

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels import gradients, tiles, windows
from fastgradnorm_kernels._addresses import NOT_SPECIALISED, aligned, input_steps
from fastgradnorm_kernels._launch import LAUNCH
from fastgradnorm_kernels._tile_gradients import tile_gradient
from fastgradnorm_kernels._validate import check_pair, check_precision, dense
from fastgradnorm_kernels.gradients import Gradients
from fastgradnorm_kernels.shapes import Bool, Float
from fastgradnorm_kernels.tiles import Tile
from fastgradnorm_kernels.windows import Windows

# Rows that 32 bits number, with what a tile has beyond them.
_MOST_ROWS = 2**31 - 2**16
# Programs a sample and group where few norms are needed: most have nothing to do.
_PROGRAMS_IF_NEEDED = 8
# Columns of a tile of split products for these: as of layers with few inputs.
_COLUMNS_IF_NEEDED = 64


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def _direct_sq_norm_kernel(
    x_ptr,  # see windows.py
    g_ptr,  # [N, K, T, groups * O], see gradients.py
    needed_ptr,  # [N, K], int8
    partial_ptr,  # [N, groups, splits, K * O], float32
    K,
    T,
    I,
    O,
    groups,
    row_tiles,  # a program's
    column_tiles,  # a program's
    splits,
    channels,
    x_stride_n,
    x_stride_group,
    OUT_Y,
    OUT_X,
    KERNEL_Y,
    KERNEL_X,
    t_step_z,
    t_step_y,
    t_step_x,
    i_step_z,
    i_step_y,
    i_step_x,
    g_stride_n,
    g_stride_k,
    g_stride,
    every,  # whether all norms are needed after all, where kernels are shared
    PLAIN: tl.constexpr,
    FLAT: tl.constexpr,
    POSITIONS_LAST: tl.constexpr,
    VECTOR_X: tl.constexpr,
    VECTOR_G: tl.constexpr,
    EVEN_T: tl.constexpr,
    HAS_NEEDED: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK_O: tl.constexpr,
    PART_O: tl.constexpr,  # rows of one product
    BLOCK_I: tl.constexpr,
    BLOCK_T: tl.constexpr,
    PRECISION: tl.constexpr,
    PROMOTE: tl.constexpr,
):
    row_programs = tl.cdiv(tl.cdiv(K * O, BLOCK_O), row_tiles)
    split = tl.program_id(0) % splits
    row_program = tl.program_id(0) // splits % row_programs
    group = tl.cast(tl.program_id(0) // splits // row_programs % groups, tl.int64)
    n = tl.cast(tl.program_id(0) // splits // row_programs // groups, tl.int64)
    channels, inputs = aligned(channels, VECTOR_X), aligned(I, VECTOR_X)
    outputs = O if POSITIONS_LAST else aligned(O, VECTOR_G)
    g_stride, g_stride_k = aligned(g_stride, VECTOR_G), aligned(g_stride_k, VECTOR_G)
    steps = (aligned(t_step_z, VECTOR_X), aligned(t_step_y, VECTOR_X), aligned(t_step_x, VECTOR_X))
    taps = (aligned(i_step_z, VECTOR_X), aligned(i_step_y, VECTOR_X), aligned(i_step_x, VECTOR_X))
    kernel, out = (KERNEL_Y, KERNEL_X), (OUT_Y, OUT_X)
    x_group = x_ptr + aligned(n * x_stride_n + group * x_stride_group, VECTOR_X)
    first = split * column_tiles
    last = tl.minimum(first + column_tiles, tl.cdiv(I, BLOCK_I))
    for row_tile in range(row_program * row_tiles, row_program * row_tiles + row_tiles):
        slots, g_rows, needed, totals, end = (), (), (), (), last
        if HAS_NEEDED:
            end = first
        for part in tl.static_range(BLOCK_O // PART_O):
            rows = row_tile * BLOCK_O + part * PART_O + tl.arange(0, PART_O)
            present = rows < K * outputs
            row = tl.where(present, rows, 0)  # loads then need no mask: what it adds is not stored
            k, o = row // outputs, group * outputs + row % outputs
            # Hints are given where a number is made: those on a function's argument are lost.
            far = aligned(n * g_stride_n, VECTOR_G) + tl.cast(k, tl.int64) * g_stride_k
            if POSITIONS_LAST:
                g_row = g_ptr + (far + o * g_stride)
            else:
                g_row = g_ptr + tl.max_contiguous(tl.multiple_of(far + o, VECTOR_G), VECTOR_G)
            if HAS_NEEDED:
                read = present & (every == 0) if SHARED else present
                found = tl.load(needed_ptr + n * K + k, mask=read, other=0) != 0
                present = present & (found | (every != 0)) if SHARED else found
                end = tl.where(tl.max(present.to(tl.int32), 0) != 0, last, end)
            slots, g_rows, needed = slots + (rows,), g_rows + (g_row[:, None],), needed + (present,)
            totals = totals + (tl.zeros([PART_O], tl.float32),)
        for tile in range(first, end):
            columns = tile * BLOCK_I + tl.arange(0, BLOCK_I)
            i = tl.where(columns < inputs, columns, 0)
            i = tl.max_contiguous(tl.multiple_of(i, VECTOR_X), VECTOR_X)
            x_steps = input_steps(i, channels, kernel, taps, PLAIN, FLAT, VECTOR_X)
            gradients = tile_gradient(
                *(x_group, x_steps[None, :], g_rows, T, g_stride, out, steps, PLAIN, FLAT),
                *(POSITIONS_LAST, VECTOR_X, VECTOR_G, EVEN_T, BLOCK_T, PRECISION, PROMOTE),
            )
            added = ()
            for part in tl.static_range(BLOCK_O // PART_O):
                gradient = tl.where((columns < I)[None, :], gradients[part], 0.0)
                added = added + (totals[part] + tl.sum(gradient * gradient, 1),)
            totals = added
        partials = partial_ptr + ((n * groups + group) * splits + split) * K * O
        for part in tl.static_range(BLOCK_O // PART_O):
            total = tl.where(needed[part], totals[part], 0.0)
            tl.store(partials + slots[part], total, mask=slots[part] < K * O)


def _program_tiles(row_tiles: int, column_tiles: int, needed: bool) -> tuple[int, int]:
    """Row tiles and column tiles that a program owns."""
    return (triton.cdiv(row_tiles, _PROGRAMS_IF_NEEDED), column_tiles) if needed else (1, 1)


def parts(
    activations: Windows,
    grads: Gradients,
    needed: Bool[Tensor, "N K"] | None,
    input_precision: str,
    tile: Tile | None,
) -> list[Float[Tensor, "N parts K O"]]:
    """What each output of each part adds; of so many cotangents at a time that 32 bits number."""
    g = grads.g
    k, o = g.shape[1], g.shape[3] // activations.groups
    if k * o <= _MOST_ROWS or k == 1:
        return [_part(activations, grads, needed, input_precision, tile)]
    found = []
    for some in (slice(0, k // 2), slice(k // 2, k)):
        marked = None if needed is None else needed[:, some]
        half = grads._replace(g=g[:, some])
        found += parts(activations, half, marked, input_precision, tile)
    return found


def _part(
    activations: Windows,
    grads: Gradients,
    needed: Bool[Tensor, "N K"] | None,
    input_precision: str,
    tile: Tile | None,
) -> Float[Tensor, "N parts K O"]:
    x, g, t, i = activations.x, grads.g, activations.positions, activations.inputs
    n, k, _, o = g.shape
    groups, o = activations.groups, o // activations.groups
    # Few norms are needed: they are not worth a compilation of their own. The loops of split
    # products have so many instructions that masks do not count, and all of them share one.
    shared = tiles.shares(g.dtype, input_precision, g.device)
    if tile is None:
        vectors = min(activations.vector, grads.vector) * g.element_size() == 16
        columns = min(i, _COLUMNS_IF_NEEDED) if shared and needed is not None else i
        tile = tiles.choose("direct", g.dtype, input_precision, (k * o, columns), vectors, g.device)
        if needed is not None and not shared:
            tile = tiles.small(tile)
    row_tiles, column_tiles = triton.cdiv(k * o, tile.rows), triton.cdiv(i, tile.columns)
    own_rows, own_columns = _program_tiles(row_tiles, column_tiles, needed is not None)
    splits = triton.cdiv(column_tiles, max(1, own_columns))
    partial = torch.empty(n, groups, splits, k * o, dtype=torch.float32, device=g.device)
    flags = torch.empty(16, dtype=torch.int8, device=g.device) if needed is None else needed
    if partial.numel():
        grid = (n * groups * triton.cdiv(row_tiles, own_rows) * splits,)
        sizes = (k, t, i, o, groups, own_rows, own_columns, splits)
        _direct_sq_norm_kernel[grid](
            *(x, g, flags.to(torch.int8).contiguous(), partial, *sizes),
            **activations.arguments(),
            **grads.arguments(),
            every=int(needed is None),
            FLAT=activations.flat and tiles.flattens(g.dtype, input_precision, g.device),
            EVEN_T=not shared and needed is None and t % tile.depth == 0,
            HAS_NEEDED=shared or needed is not None,
            SHARED=shared,
            BLOCK_O=tile.rows,
            PART_O=tiles.product_rows(tile, input_precision, g.device),
            BLOCK_I=tile.columns,
            BLOCK_T=tile.depth,
            PRECISION=input_precision,
            PROMOTE=tiles.arithmetic(g.dtype, input_precision) == "split",
            num_warps=tile.warps,
            num_stages=tile.stages,
            **tiles.registers(g.device, tile.warps),
            **LAUNCH,
        )
    return partial.view(n, groups * splits, k, o)


def launch(
    activations: Windows,
    grads: Gradients,
    needed: Bool[Tensor, "N K"] | None,
    input_precision: str,
    tile: Tile | None,
) -> Float[Tensor, "N K"]:
    """Norms of all groups together."""
    found = parts(activations, grads, needed, input_precision, tile)
    norms = [each.sum((1, 3)) for each in found]
    return norms[0] if len(norms) == 1 else torch.cat(norms, 1)


def direct_sq_norm(
    activations: Float[Tensor, "N T I"],
    grad_outputs: Float[Tensor, "N K T O"],
    needed: Bool[Tensor, "N K"] | None = None,
    *,
    input_precision: str = "ieee",
    tile: Tile | None = None,
) -> Float[Tensor, "N K"]:
    """Triton form of `reference.direct_sq_norm`, for the `needed` norms; the others are zero."""
    check_pair(activations, grad_outputs)
    check_precision(input_precision)
    a = windows.of_linear(dense(activations, 2))
    return launch(a, gradients.of(grad_outputs), needed, input_precision, tile)
