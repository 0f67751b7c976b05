r"""`Σ_{s,t} (a_s·a_t)(g_s·g_t)`: a weight gradient's squared norm by tiles of two Grams.

Goodfellow 2015 (arXiv 1510.01799), Li et al. 2022 (arXiv 2110.05679). A program owns one tile
[BLOCK_T, BLOCK_T] of the activation Gram of one sample, on or below the diagonal (both Grams are
symmetric: the others count twice), and holds it while it forms the same tile of the gradient Gram
of CHUNK cotangents in turn. No [T, T] matrix reaches memory.

Diagonal tiles also give `Σ_t ‖a_t‖²‖g_t‖²`, the scale at which the terms cancel.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels._validate import check_pair, check_precision, dense
from fastgradnorm_kernels.reference import GhostNorm
from fastgradnorm_kernels.shapes import Float

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
def _gram(
    x_ptr,  # [T, D]
    rows,
    columns,
    T,
    D,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Inner products [BLOCK_T, BLOCK_T] of positions `rows` with positions `columns`."""
    gram = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    for start in range(0, D, BLOCK_D):
        depth = start + tl.arange(0, BLOCK_D)
        left_mask = (rows < T)[:, None] & (depth < D)[None, :]
        right_mask = (columns < T)[None, :] & (depth < D)[:, None]
        left = tl.load(x_ptr + rows[:, None] * D + depth[None, :], mask=left_mask, other=0.0)
        right = tl.load(x_ptr + columns[None, :] * D + depth[:, None], mask=right_mask, other=0.0)
        gram = tl.dot(left, right, gram, input_precision=PRECISION)
    return gram


@triton.jit
def _ghost_sq_norm_kernel(
    a_ptr,  # [N, T, I], samples `a_stride_n` apart
    g_ptr,  # [N, K, T, O]
    partial_ptr,  # [2, N, K, pairs], float32: squared norm, uncancelled
    N,
    K,
    T,
    I,
    O,
    pairs,
    a_stride_n,
    g_stride_n,
    g_stride_k,
    CHUNK: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    chunks = tl.cdiv(K, CHUNK)
    pair = tl.program_id(0) % pairs
    chunk = tl.program_id(0) // pairs % chunks
    n = tl.cast(tl.program_id(0) // pairs // chunks, tl.int64)
    row, column = tile_pair(pair)
    rows = row * BLOCK_T + tl.arange(0, BLOCK_T)  # 32 bits reach all of one sample: check_pair
    columns = column * BLOCK_T + tl.arange(0, BLOCK_T)
    gram_a = _gram(a_ptr + n * a_stride_n, rows, columns, T, I, BLOCK_D, PRECISION)
    weight = tl.where(row == column, 1.0, 2.0)
    diagonal = rows[:, None] == columns[None, :]
    plane = tl.cast(N, tl.int64) * K * pairs
    for k in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, K)):
        g_rows = g_ptr + n * g_stride_n + tl.cast(k, tl.int64) * g_stride_k
        gram = gram_a * _gram(g_rows, rows, columns, T, O, BLOCK_D, PRECISION)
        slot = partial_ptr + (n * K + k) * pairs + pair
        tl.store(slot, weight * tl.sum(gram))
        tl.store(slot + plane, tl.sum(tl.where(diagonal, gram, 0.0)))


def blocks(
    dtype: torch.dtype, input_precision: str, positions: int, even: bool = True
) -> dict[str, Any]:
    """Block sizes, warps and stages; features not `even` in sixteens need more registers."""
    side = 16 if positions <= 16 else 32 if positions <= 32 else 64
    depth = 64 if dtype != torch.float32 else 16 if input_precision == "ieee" else 32
    warps = 1 if side == 16 else 4 if side == 32 or even else 8
    return {"BLOCK_T": side, "BLOCK_D": depth, "num_warps": warps, "num_stages": 3}


def chunk_size(inputs: int, outputs: int) -> int:
    """Cotangents that share one program's activation Gram: a power of two from 8 to 256."""
    wanted: int = triton.next_power_of_2(_SHARED * inputs // max(1, outputs))
    return min(256, max(8, wanted))


def ghost_sq_norm(
    activations: Float[Tensor, "N T I"],
    grad_outputs: Float[Tensor, "N K T O"],
    *,
    input_precision: str = "ieee",
) -> GhostNorm:
    """Triton form of :func:`fastgradnorm_kernels.reference.ghost_sq_norm`."""
    check_pair(activations, grad_outputs)
    check_precision(input_precision)
    a, g = dense(activations, 2), dense(grad_outputs, 2)
    n, k, t, o = g.shape
    i = a.shape[2]
    options = blocks(a.dtype, input_precision, t, i % 16 == o % 16 == 0) | {
        "CHUNK": chunk_size(i, o),
        "PRECISION": input_precision,
    }
    tiles = triton.cdiv(t, options["BLOCK_T"])
    pairs = tiles * (tiles + 1) // 2
    partial = torch.empty(2, n, k, pairs, dtype=torch.float32, device=a.device)
    if partial.numel():
        grid = (n * pairs * triton.cdiv(k, options["CHUNK"]),)
        strides = (a.stride(0), *g.stride()[:2])
        _ghost_sq_norm_kernel[grid](a, g, partial, n, k, t, i, o, pairs, *strides, **options)
    return GhostNorm(partial[0].sum(-1), partial[1].sum(-1))
