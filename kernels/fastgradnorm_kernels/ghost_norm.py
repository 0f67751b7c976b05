r"""`Σ_{s,t} (a_s·a_t)(g_s·g_t)`: a weight gradient's squared norm by tiles of two Grams.

Goodfellow 2015 (arXiv 1510.01799), Li et al. 2022 (arXiv 2110.05679). A program owns one tile
[BLOCK_T, BLOCK_T] of the activation Gram of one sample, on or below the diagonal (both Grams are
symmetric: the others count twice), and holds it while it forms the same tile of the gradient Gram
of CHUNK cotangents in turn. No [T, T] matrix reaches memory. Where several cotangents' positions
fit into a tile they are stacked: blocks on its diagonal are theirs, all else is dropped.

Diagonal tiles also give `Σ_t ‖a_t‖²‖g_t‖²`, the scale at which the terms cancel.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels import gradients, tiles, windows
from fastgradnorm_kernels._validate import check_pair, check_precision, dense
from fastgradnorm_kernels.direct_norm import NOT_SPECIALISED, aligned
from fastgradnorm_kernels.gradients import Gradients
from fastgradnorm_kernels.reference import GhostNorm
from fastgradnorm_kernels.shapes import Float
from fastgradnorm_kernels.tiles import Tile
from fastgradnorm_kernels.windows import Windows

# A program's gradient Grams cost at least this many times its activation Gram, which every further
# program of the same tile forms again.
_SHARED = 4


@triton.jit
def tile_pair(pair):
    """Row and column, row >= column, of the `pair`-th tile of a lower triangle."""
    row = ((tl.sqrt(8.0 * tl.cast(pair, tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    row = tl.where(row * (row + 1) // 2 > pair, row - 1, row)
    row = tl.where((row + 1) * (row + 2) // 2 <= pair, row + 1, row)
    return row, pair - row * (row + 1) // 2


@triton.jit
def _places(t, OUT, STEPS, PLAIN: tl.constexpr):
    """Elements from a sample's first position to its positions `t`."""
    if PLAIN:
        return t * STEPS[2]
    z, y, x = t // (OUT[0] * OUT[1]), t // OUT[1] % OUT[0], t % OUT[1]
    return z * STEPS[0] + y * STEPS[1] + x * STEPS[2]


@triton.jit
def _add_product(left, right, gram, PRECISION: tl.constexpr, PROMOTE: tl.constexpr):
    """`gram + left rightᵀ`."""
    if PROMOTE:  # see `direct_norm._gradient`
        depth: tl.constexpr = left.shape[1]
        return gram + tl.dot(left, right.T, input_precision=PRECISION, max_num_imprecise_acc=depth)
    return tl.dot(left, right.T, gram, input_precision=PRECISION)


@triton.jit
def _activation_gram(
    x_ptr,
    rows,  # [BLOCK_T], elements from `x_ptr` to the first inputs of these positions
    columns,
    I,
    channels,
    KERNEL,
    TAPS,
    PLAIN: tl.constexpr,
    SAME: tl.constexpr,
    VECTOR: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    PROMOTE: tl.constexpr,
):
    """Inner products [BLOCK_T, BLOCK_T] of what positions `rows` and `columns` see."""
    gram = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    depth = tl.arange(0, BLOCK_D)
    limit = aligned(I, VECTOR)
    c, z, y, x = 0, 0, 0, 0  # the channel and the place of the kernel position
    for start in range(0, I, BLOCK_D):
        step = start if PLAIN else c + z * TAPS[0] + y * TAPS[1] + x * TAPS[2]
        x_step = x_ptr + tl.multiple_of(step, VECTOR)
        if EVEN:
            left = tl.load(x_step + (rows[:, None] + depth[None, :]))
        else:
            mask = (depth < limit - start)[None, :]
            left = tl.load(x_step + (rows[:, None] + depth[None, :]), mask=mask, other=0.0)
        if SAME:
            gram = _add_product(left, left, gram, PRECISION, PROMOTE)
        elif EVEN:
            right = tl.load(x_step + (columns[:, None] + depth[None, :]))
            gram = _add_product(left, right, gram, PRECISION, PROMOTE)
        else:
            right = tl.load(x_step + (columns[:, None] + depth[None, :]), mask=mask, other=0.0)
            gram = _add_product(left, right, gram, PRECISION, PROMOTE)
        if not PLAIN:
            c += BLOCK_D
            x += (c >= channels).to(tl.int32)
            c = tl.where(c >= channels, 0, c)
            y += (x >= KERNEL[1]).to(tl.int32)
            x = tl.where(x >= KERNEL[1], 0, x)
            z += (y >= KERNEL[0]).to(tl.int32)
            y = tl.where(y >= KERNEL[0], 0, y)
    return gram


@triton.jit
def _gradient_gram(
    g_rows,  # [BLOCK_T], pointers to the first outputs of these positions
    g_columns,
    O,
    g_stride,
    SAME: tl.constexpr,
    POSITIONS_LAST: tl.constexpr,
    VECTOR: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    PROMOTE: tl.constexpr,
):
    """Inner products [BLOCK_T, BLOCK_T] of the gradients at positions `rows` and `columns`."""
    gram = tl.zeros([g_rows.shape[0], g_columns.shape[0]], tl.float32)
    limit = O if POSITIONS_LAST else aligned(O, VECTOR)
    for start in range(0, O, BLOCK_D):
        o = start + tl.arange(0, BLOCK_D)
        steps = o * g_stride if POSITIONS_LAST else o
        if EVEN:
            left = tl.load(g_rows[:, None] + steps[None, :])
        else:
            left = tl.load(g_rows[:, None] + steps[None, :], mask=(o < limit)[None, :], other=0.0)
        if SAME:
            gram = _add_product(left, left, gram, PRECISION, PROMOTE)
        elif EVEN:
            right = tl.load(g_columns[:, None] + steps[None, :])
            gram = _add_product(left, right, gram, PRECISION, PROMOTE)
        else:
            mask = (o < limit)[None, :]
            right = tl.load(g_columns[:, None] + steps[None, :], mask=mask, other=0.0)
            gram = _add_product(left, right, gram, PRECISION, PROMOTE)
    return gram


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def _ghost_sq_norm_kernel(
    x_ptr,  # see windows.py
    g_ptr,  # [N, K, T, groups * O], see gradients.py
    partial_ptr,  # [2, N, groups, K, pairs or positions], float32: squared norm, uncancelled
    N,
    K,
    T,
    I,
    O,
    groups,
    pairs,
    chunk,  # cotangents that a program takes
    stack,  # of these at a time
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
    PLAIN: tl.constexpr,
    POSITIONS_LAST: tl.constexpr,
    VECTOR_X: tl.constexpr,
    VECTOR_G: tl.constexpr,
    SAME: tl.constexpr,
    STACKED: tl.constexpr,
    EVEN_I: tl.constexpr,
    EVEN_O: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    PROMOTE: tl.constexpr,
):
    chunks = tl.cdiv(K, chunk)
    pair = tl.program_id(0) % pairs
    first_k = tl.program_id(0) // pairs % chunks * chunk
    group = tl.cast(tl.program_id(0) // pairs // chunks % groups, tl.int64)
    n = tl.cast(tl.program_id(0) // pairs // chunks // groups, tl.int64)
    g_stride = aligned(g_stride, VECTOR_G)
    STEPS = (aligned(t_step_z, VECTOR_X), aligned(t_step_y, VECTOR_X), aligned(t_step_x, VECTOR_X))
    TAPS = (aligned(i_step_z, VECTOR_X), aligned(i_step_y, VECTOR_X), aligned(i_step_x, VECTOR_X))
    positions = aligned(T, VECTOR_G) if POSITIONS_LAST else T
    row, column = tile_pair(pair)
    rows, columns = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_T)
    if STACKED:
        row_slot, column_slot = rows // positions, columns // positions
        rows, columns = rows % positions, columns % positions
        inside, column_inside = row_slot < stack, column_slot < stack
    else:
        row_slot, column_slot = tl.zeros_like(rows), tl.zeros_like(columns)
        rows, columns = row * BLOCK_T + rows, column * BLOCK_T + columns
        inside, column_inside = rows < positions, columns < positions
    row_t, column_t = tl.where(inside, rows, 0), tl.where(column_inside, columns, 0)
    x_group = x_ptr + aligned(n * x_stride_n + group * x_stride_group, VECTOR_X)
    row_places = tl.multiple_of(_places(row_t, (OUT_Y, OUT_X), STEPS, PLAIN), VECTOR_X)
    column_places = tl.multiple_of(_places(column_t, (OUT_Y, OUT_X), STEPS, PLAIN), VECTOR_X)
    gram_a = _activation_gram(
        x_group, row_places, column_places, I, aligned(channels, VECTOR_X), (KERNEL_Y, KERNEL_X), TAPS,
        PLAIN, SAME, VECTOR_X, EVEN_I, BLOCK_D, PRECISION, PROMOTE,
    )  # fmt: skip
    used = inside[:, None] & column_inside[None, :] & (row_slot[:, None] == column_slot[None, :])
    gram_a = tl.where(used, gram_a, 0.0)
    weight = tl.where(row == column, 1.0, 2.0)
    diagonal = rows[:, None] == columns[None, :]
    width = positions if STACKED else pairs
    plane = tl.cast(N, tl.int64) * groups * K * width
    for k in range(first_k, tl.minimum(first_k + chunk, K), stack):
        row_k = tl.where(k + row_slot < K, row_slot, 0)
        column_k = tl.where(k + column_slot < K, column_slot, 0)
        g_group = g_ptr + aligned(n * g_stride_n + tl.cast(k, tl.int64) * g_stride_k, VECTOR_G)
        if POSITIONS_LAST:
            g_group += group * O * g_stride
            row_steps, column_steps = row_t, column_t
        else:
            g_group += aligned(group * O, VECTOR_G)
            row_steps, column_steps = row_t * g_stride, column_t * g_stride
        if STACKED:
            row_steps = row_steps + tl.cast(row_k, tl.int64) * g_stride_k
            column_steps = column_steps + tl.cast(column_k, tl.int64) * g_stride_k
        if POSITIONS_LAST:
            row_steps = tl.max_contiguous(tl.multiple_of(row_steps, VECTOR_G), VECTOR_G)
            column_steps = tl.max_contiguous(tl.multiple_of(column_steps, VECTOR_G), VECTOR_G)
        else:
            row_steps = tl.multiple_of(row_steps, VECTOR_G)
            column_steps = tl.multiple_of(column_steps, VECTOR_G)
        gram = gram_a * _gradient_gram(
            g_group + row_steps, g_group + column_steps, O, g_stride, SAME,
            POSITIONS_LAST, VECTOR_G, EVEN_O, BLOCK_D, PRECISION, PROMOTE,
        )  # fmt: skip
        on_diagonal = tl.where(diagonal, gram, 0.0)
        slot = partial_ptr + ((n * groups + group) * K + k) * width
        if STACKED:
            slots = slot + tl.arange(0, BLOCK_T)
            written = inside & (k + row_slot < K)
            tl.store(slots, tl.sum(gram, 1), mask=written)
            tl.store(slots + plane, tl.sum(on_diagonal, 1), mask=written)
        else:
            tl.store(slot + pair, weight * tl.sum(gram))
            tl.store(slot + plane + pair, tl.sum(on_diagonal))


def chunk_size(inputs: int, outputs: int) -> int:
    """Cotangents that share one program's activation Gram: a power of two from 8 to 256."""
    wanted: int = triton.next_power_of_2(_SHARED * inputs // max(1, outputs))
    return min(256, max(8, wanted))


def _depth(tile: Tile, activations: Windows) -> int:
    """Features a step: of a convolution they must divide the channels of a kernel position."""
    depth = tile.depth
    while not activations.plain and activations.channels % depth:
        depth //= 2
    return depth


def launch(
    activations: Windows, grads: Gradients, input_precision: str, tile: Tile | None
) -> GhostNorm:
    """Norms of all groups together."""
    x, g, t, i = activations.x, grads.g, activations.positions, activations.inputs
    n, k, _, o = g.shape
    groups, o = activations.groups, o // activations.groups
    tile = tile or tiles.choose("ghost", g.dtype, input_precision, t, t, g.device)
    side, depth = tile.rows, _depth(tile, activations)
    stack = max(1, side // max(1, t))
    blocks = triton.cdiv(t, side)
    pairs = blocks * (blocks + 1) // 2
    chunk = triton.cdiv(chunk_size(i, o), stack) * stack
    width = t if stack > 1 else pairs
    partial = torch.empty(2, n, groups, k, width, dtype=torch.float32, device=g.device)
    if partial.numel():
        grid = (n * groups * pairs * triton.cdiv(k, chunk),)
        _ghost_sq_norm_kernel[grid](
            *(x, g, partial, n, k, t, i, o, groups, pairs, chunk, stack),
            **activations.arguments(),
            **grads.arguments(),
            SAME=pairs == 1,
            STACKED=stack > 1,
            EVEN_I=i % depth == 0,
            EVEN_O=o % depth == 0,
            BLOCK_T=side,
            BLOCK_D=depth,
            PRECISION=input_precision,
            PROMOTE=tiles.arithmetic(g.dtype, input_precision) == "split",
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return GhostNorm(partial[0].sum((1, 3)), partial[1].sum((1, 3)))


def ghost_sq_norm(
    activations: Float[Tensor, "N T I"],
    grad_outputs: Float[Tensor, "N K T O"],
    *,
    input_precision: str = "ieee",
    tile: Tile | None = None,
) -> GhostNorm:
    """Triton form of :func:`fastgradnorm_kernels.reference.ghost_sq_norm`."""
    check_pair(activations, grad_outputs)
    check_precision(input_precision)
    a = windows.of_linear(dense(activations, 2))
    return launch(a, gradients.of(grad_outputs), input_precision, tile)
