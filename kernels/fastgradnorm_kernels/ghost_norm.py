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
from fastgradnorm_kernels._addresses import NOT_SPECIALISED, aligned
from fastgradnorm_kernels._grams import (
    activation_gram,
    gradient_gram,
    gradient_steps,
    input_places,
    tile_pair,
    tile_positions,
)
from fastgradnorm_kernels._launch import LAUNCH
from fastgradnorm_kernels._validate import check_pair, check_precision, dense
from fastgradnorm_kernels.gradients import Gradients
from fastgradnorm_kernels.reference import GhostNorm
from fastgradnorm_kernels.shapes import Float
from fastgradnorm_kernels.tiles import Tile
from fastgradnorm_kernels.windows import Windows

# A program's gradient Grams cost at least this many times its activation Gram, which every further
# program of the same tile forms again.
_SHARED = 4


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def _ghost_sq_norm_kernel(
    x_ptr,  # see windows.py
    g_ptr,  # [N, K, T, groups * O], see gradients.py
    sq_norm_ptr,  # [N, groups, K, pairs or positions], float32
    uncancelled_ptr,  # the same
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
    FLAT: tl.constexpr,
    POSITIONS_LAST: tl.constexpr,
    VECTOR_X: tl.constexpr,
    VECTOR_G: tl.constexpr,
    STACKED: tl.constexpr,  # all positions are in one tile, of one cotangent or of several
    SHARED: tl.constexpr,  # or not: `pairs` tells
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
    steps = (aligned(t_step_z, VECTOR_X), aligned(t_step_y, VECTOR_X), aligned(t_step_x, VECTOR_X))
    taps = (aligned(i_step_z, VECTOR_X), aligned(i_step_y, VECTOR_X), aligned(i_step_x, VECTOR_X))
    kernel, out = (KERNEL_Y, KERNEL_X), (OUT_Y, OUT_X)
    positions = aligned(T, VECTOR_G) if POSITIONS_LAST else T
    row, column = tile_pair(pair)
    vector: tl.constexpr = VECTOR_G if POSITIONS_LAST else 1
    t, slot, inside = tile_positions(row, positions, stack, pairs, STACKED, SHARED, vector, BLOCK_T)
    column_t, column_slot, column_inside = tile_positions(
        column, positions, stack, pairs, STACKED, SHARED, vector, BLOCK_T
    )
    same: tl.constexpr = STACKED and not SHARED
    x_group = x_ptr + aligned(n * x_stride_n + group * x_stride_group, VECTOR_X)
    places = tl.multiple_of(input_places(t, out, steps, PLAIN, FLAT), VECTOR_X)
    column_places = tl.multiple_of(input_places(column_t, out, steps, PLAIN, FLAT), VECTOR_X)
    channels = aligned(channels, VECTOR_X)
    gram_a = activation_gram(
        *(x_group, places, column_places, I, channels, kernel, taps),
        *(PLAIN, FLAT, same, VECTOR_X, EVEN_I, BLOCK_D, PRECISION, PROMOTE),
    )
    used = inside[:, None] & column_inside[None, :] & (slot[:, None] == column_slot[None, :])
    gram_a = tl.where(used, gram_a, 0.0)
    diagonal = t[:, None] == column_t[None, :]
    width = tl.where(pairs == 1, positions, pairs) if SHARED else positions if STACKED else pairs
    g_group = group * O * g_stride if POSITIONS_LAST else aligned(group * O, VECTOR_G)
    g_group = g_ptr + aligned(n * g_stride_n, VECTOR_G) + g_group
    for k in range(first_k, tl.minimum(first_k + chunk, K), stack):
        g_k = g_group + aligned(tl.cast(k, tl.int64) * g_stride_k, VECTOR_G)
        rows = g_k + gradient_steps(
            t, slot, K - k, g_stride, g_stride_k, STACKED, POSITIONS_LAST, VECTOR_G
        )
        columns = g_k + gradient_steps(
            column_t, column_slot, K - k, g_stride, g_stride_k, STACKED, POSITIONS_LAST, VECTOR_G
        )
        gram = gram_a * gradient_gram(
            *(rows, columns, O, g_stride),
            *(same, POSITIONS_LAST, VECTOR_G, EVEN_O, BLOCK_D, PRECISION, PROMOTE),
        )
        on_diagonal = tl.where(diagonal, gram, 0.0)
        first = ((n * groups + group) * K + k) * width
        weight = tl.where(row == column, 1.0, 2.0)
        if STACKED:
            slots = first + tl.arange(0, BLOCK_T)
            reach = tl.where(pairs == 1, K - k, 0) if SHARED else K - k
            written = inside & (slot < reach)
            sq_norms, uncancelled = tl.sum(gram, 1), tl.sum(on_diagonal, 1)
            if SHARED:
                tl.store(sq_norm_ptr + first + pair, weight * tl.sum(sq_norms), mask=pairs != 1)
                tl.store(uncancelled_ptr + first + pair, tl.sum(uncancelled), mask=pairs != 1)
            tl.store(sq_norm_ptr + slots, sq_norms, mask=written)
            tl.store(uncancelled_ptr + slots, uncancelled, mask=written)
        else:
            tl.store(sq_norm_ptr + first + pair, weight * tl.sum(gram))
            tl.store(uncancelled_ptr + first + pair, tl.sum(on_diagonal))


def chunk_size(inputs: int, outputs: int) -> int:
    """Cotangents that share one program's activation Gram: a power of two from 8 to 256."""
    wanted: int = triton.next_power_of_2(_SHARED * inputs // max(1, outputs))
    return min(256, max(8, wanted))


def _chunk(shape: tuple[int, int, int], stack: int, others: int, processors: int) -> int:
    """Cotangents of one program, for I inputs, O outputs and K cotangents in all.

    All chunks are about as large. There are more of them where `others`, the programs of each,
    would leave processors idle, which two programs each keep busy.
    """
    i, o, k = shape
    chunks = triton.cdiv(k, max(stack, chunk_size(i, o)))
    while chunks * stack < k and others * (chunks + 1) <= 2 * processors:
        chunks += 1
    chunk: int = triton.cdiv(triton.cdiv(k, max(1, chunks)), stack) * stack
    return chunk


def _depth(tile: Tile, activations: Windows) -> int:
    """Features a step: of a convolution they must divide the channels of a kernel position."""
    depth = tile.depth
    while not activations.plain and activations.channels % depth:
        depth //= 2
    return depth


def parts(
    activations: Windows, grads: Gradients, input_precision: str, tile: Tile | None
) -> tuple[Float[Tensor, "N G K parts"], Float[Tensor, "N G K parts"]]:
    """What both sums come to in each group and tile."""
    x, g, t, i = activations.x, grads.g, activations.positions, activations.inputs
    n, k, _, o = g.shape
    groups, o = activations.groups, o // activations.groups
    if tile is None:
        vectors = min(activations.vector, grads.vector) * g.element_size() == 16
        tile = tiles.choose("ghost", g.dtype, input_precision, (t, t), vectors, g.device)
    side, depth = tile.rows, _depth(tile, activations)
    stack = max(1, side // max(1, t))
    blocks = triton.cdiv(t, side)
    pairs = blocks * (blocks + 1) // 2
    chunk = _chunk((i, o, k), stack, n * groups * pairs, tiles.processors(g.device))
    width = t if pairs == 1 else pairs
    # Split products of a tile with itself take as many instructions as of two tiles, and what they
    # read twice is in the cache: one compilation serves all numbers of tiles.
    shared = tiles.shares(g.dtype, input_precision, g.device)
    shape, device = (n, groups, k, width), g.device
    sq_norm, uncancelled = (
        torch.empty(shape, dtype=torch.float32, device=device) for _ in range(2)
    )
    if sq_norm.numel():
        grid = (n * groups * pairs * triton.cdiv(k, chunk),)
        _ghost_sq_norm_kernel[grid](
            *(x, g, sq_norm, uncancelled, k, t, i, o, groups, pairs, chunk, stack),
            **activations.arguments(),
            **grads.arguments(),
            FLAT=activations.flat and tiles.flattens(g.dtype, input_precision, g.device),
            STACKED=shared or pairs == 1,
            SHARED=shared,
            EVEN_I=i % depth == 0,
            EVEN_O=o % depth == 0,
            BLOCK_T=side,
            BLOCK_D=depth,
            PRECISION=input_precision,
            PROMOTE=tiles.arithmetic(g.dtype, input_precision) == "split",
            num_warps=tile.warps,
            num_stages=tile.stages,
            **tiles.registers(g.device, tile.warps),
            **LAUNCH,
        )
    return sq_norm, uncancelled


def launch(
    activations: Windows, grads: Gradients, input_precision: str, tile: Tile | None
) -> GhostNorm:
    """Norms of all groups together."""
    found = parts(activations, grads, input_precision, tile)
    # Nothing is left to be added where there is one group, and one position.
    single = found[0].shape[1] == found[0].shape[3] == 1
    return GhostNorm(*(each[:, 0, :, 0] if single else each.sum((1, 3)) for each in found))


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
