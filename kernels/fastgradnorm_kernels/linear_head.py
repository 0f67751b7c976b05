"""Features [N, D] and weight [C, D] to the scores of :mod:`logit_head`, with no logits in memory.

Logits are formed tile by tile and forgotten, as in Cut Cross-Entropy (Wijmans et al. 2025, arXiv
2411.09009). A program owns BLOCK_N rows and SPLIT classes. The first kernel stores the state of its
classes (see :mod:`_math`); the second merges the states of all splits, forms the same logits again
and stores its part of the sums. Every program writes its own slots: no locks, and equal inputs give
equal bits. The predicted class is told by its index, so that the two products need not agree to the
last bit.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels._launch import LAUNCH
from fastgradnorm_kernels._math import (
    FLOOR,
    above_floor,
    empty_state,
    exp_other,
    finite,
    merge,
    other_shares,
    other_sums,
    row_terms,
    tile_state,
    top_terms,
)
from fastgradnorm_kernels._validate import check_linear_head, check_precision
from fastgradnorm_kernels.reference import HeadScores
from fastgradnorm_kernels.shapes import Float

# Classes a program sweeps. The split depends on C alone: a score never depends on the batch size.
_SPLIT = 2048


@triton.jit
def _logits(
    h_ptr,
    w_ptr,
    b_ptr,
    row,
    column,
    N,
    C,
    D,
    HAS_BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`h Wᵀ + b` [BLOCK_N, BLOCK_C] from `row` and `column` on; -inf past the last class."""
    rows, columns = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_C)
    z = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    # 64 bits to the tile, 32 within: 64-bit offsets of every element spill.
    h_rows = h_ptr + tl.cast(row, tl.int64) * D + rows[:, None] * D
    w_rows = w_ptr + tl.cast(column, tl.int64) * D + columns[None, :] * D
    for start in range(0, D, BLOCK_D):
        depth = start + tl.arange(0, BLOCK_D)
        h_mask = (rows < N - row)[:, None] & (depth < D)[None, :]
        w_mask = (columns < C - column)[None, :] & (depth < D)[:, None]
        h = tl.load(h_rows + depth[None, :], mask=h_mask, other=0.0)  # [BLOCK_N, BLOCK_D]
        w = tl.load(w_rows + depth[:, None], mask=w_mask, other=0.0)  # [BLOCK_D, BLOCK_C]
        z = tl.dot(h, w, z, input_precision=PRECISION)
    if HAS_BIAS:
        b = tl.load(b_ptr + column + columns, mask=columns < C - column, other=0.0)
        z += b.to(tl.float32)[None, :]
    return tl.where((columns < C - column)[None, :], z, -float("inf"))


@triton.jit
def _linear_head_state_kernel(
    h_ptr,  # [N, D]
    w_ptr,  # [C, D]
    b_ptr,  # [C]
    state_ptr,  # [6, splits, N], float32: top, index as bits, base, t, t2, tv
    N,
    C,
    D,
    splits,
    SPLIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row_blocks = tl.cdiv(N, BLOCK_N)
    split = tl.program_id(0) // row_blocks
    row = tl.program_id(0) % row_blocks * BLOCK_N
    rows = row + tl.arange(0, BLOCK_N)
    state = empty_state(BLOCK_N)
    for start in range(split * SPLIT, tl.minimum(split * SPLIT + SPLIT, C), BLOCK_C):
        columns = start + tl.arange(0, BLOCK_C)
        z = _logits(
            h_ptr, w_ptr, b_ptr, row, start, N, C, D, HAS_BIAS, BLOCK_N, BLOCK_C, BLOCK_D, PRECISION
        )
        state = merge(state, tile_state(z, columns))
    top, index, base, t, t2, tv = state
    plane = tl.cast(splits, tl.int64) * N
    slots = state_ptr + tl.cast(split, tl.int64) * N + rows
    tl.store(slots, top, mask=rows < N)
    tl.store(slots + plane, index.to(tl.float32, bitcast=True), mask=rows < N)
    tl.store(slots + 2 * plane, base, mask=rows < N)
    tl.store(slots + 3 * plane, t, mask=rows < N)
    tl.store(slots + 4 * plane, t2, mask=rows < N)
    tl.store(slots + 5 * plane, tv, mask=rows < N)


@triton.jit
def _merged_state(state_ptr, rows, N, splits, BLOCK_N: tl.constexpr):
    """The state of all classes, from those of the splits, in their order."""
    plane = tl.cast(splits, tl.int64) * N
    state = empty_state(BLOCK_N)
    for split in range(splits):
        slots = state_ptr + tl.cast(split, tl.int64) * N + rows
        top = tl.load(slots, mask=rows < N, other=0.0)
        index = tl.load(slots + plane, mask=rows < N, other=0.0).to(tl.int32, bitcast=True)
        base = tl.load(slots + 2 * plane, mask=rows < N, other=0.0)
        t = tl.load(slots + 3 * plane, mask=rows < N, other=0.0)
        t2 = tl.load(slots + 4 * plane, mask=rows < N, other=0.0)
        tv = tl.load(slots + 5 * plane, mask=rows < N, other=0.0)
        state = merge(state, (top, index, base, t, t2, tv))
    return state


@triton.jit
def _linear_head_scores_kernel(
    h_ptr,  # [N, D]
    w_ptr,  # [C, D]
    b_ptr,  # [C]
    state_ptr,  # [6, splits, N]
    partial_ptr,  # [2, splits, N], float32: expected, squares of the entropy's cotangent
    row_ptr,  # [2, N], float32: 1 - p_top, 1 - ‖p‖²
    N,
    C,
    D,
    splits,
    SPLIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row_blocks = tl.cdiv(N, BLOCK_N)
    split = tl.program_id(0) // row_blocks
    row = tl.program_id(0) % row_blocks * BLOCK_N
    rows = row + tl.arange(0, BLOCK_N)
    top, index, base, t, t2, tv = _merged_state(state_ptr, rows, N, splits, BLOCK_N)
    delta = above_floor(base - top)
    om, p_top, inverse, rr, m = row_terms(delta, t, t2, tv)
    A, kappa, c = other_sums(delta, om, p_top, inverse, rr, m)
    expected, expected_squared, square = top_terms(om, p_top, rr, m)
    if split == 0:
        tl.store(row_ptr + rows, om, mask=rows < N)
        tl.store(row_ptr + tl.cast(N, tl.int64) + rows, expected_squared, mask=rows < N)
    expected = tl.where(split == 0, expected, 0.0)  # the top class counts once
    square = tl.where(split == 0, square, 0.0)
    shares, squares = tl.zeros_like(t), tl.zeros_like(t)
    for start in range(split * SPLIT, tl.minimum(split * SPLIT + SPLIT, C), BLOCK_C):
        columns = start + tl.arange(0, BLOCK_C)
        z = _logits(
            h_ptr, w_ptr, b_ptr, row, start, N, C, D, HAS_BIAS, BLOCK_N, BLOCK_C, BLOCK_D, PRECISION
        )
        other = columns[None, :] != index[:, None]
        v = tl.where(other, above_floor(z - finite(base)[:, None]), FLOOR)
        share, share_square = other_shares(exp_other(v), v, A[:, None], kappa[:, None], c[:, None])
        shares += tl.sum(share, 1)
        squares += tl.sum(share_square, 1)
    expected += kappa * shares
    square += squares * inverse * inverse
    slots = partial_ptr + tl.cast(split, tl.int64) * N + rows
    tl.store(slots, expected, mask=rows < N)
    tl.store(slots + tl.cast(splits, tl.int64) * N, square, mask=rows < N)


def blocks(dtype: torch.dtype, features: int, precision: str) -> dict[str, Any]:
    """Block sizes, warps and stages for features of this dtype and size, at this precision."""
    depth = 32 if dtype == torch.float32 or features <= 32 else 64
    width, stages = 128, 3
    if features % 16:  # narrow loads need registers
        depth, width = depth // 2, 64
    elif dtype == torch.float32 and precision == "ieee":  # as do products off the matrix units
        depth, stages = 16, 2
    sizes = {"BLOCK_N": 64, "BLOCK_C": width, "BLOCK_D": depth}
    return sizes | {"num_warps": 8, "num_stages": stages}


def linear_head_scores(
    features: Float[Tensor, "N D"],
    weight: Float[Tensor, "C D"],
    bias: Float[Tensor, " C"] | None = None,
    *,
    input_precision: str = "ieee",
) -> HeadScores:
    """Triton form of :func:`fastgradnorm_kernels.reference.linear_head_scores`."""
    check_linear_head(features, weight, bias)
    check_precision(input_precision)
    n, d = features.shape
    c = weight.shape[0]
    h, w = features.contiguous(), weight.contiguous()
    b = w if bias is None else bias.contiguous()
    splits = triton.cdiv(c, _SPLIT)
    state, partial, rows = (
        torch.empty(*shape, n, dtype=torch.float32, device=h.device)
        for shape in ((6, splits), (2, splits), (2,))
    )
    options = blocks(h.dtype, d, input_precision) | {
        **LAUNCH,
        "SPLIT": _SPLIT,
        "HAS_BIAS": bias is not None,
        "PRECISION": input_precision,
    }
    grid = (triton.cdiv(n, options["BLOCK_N"]) * splits,)
    if n:
        _linear_head_state_kernel[grid](h, w, b, state, n, c, d, splits, **options)
        _linear_head_scores_kernel[grid](h, w, b, state, partial, rows, n, c, d, splits, **options)
    q = torch.linalg.vector_norm(h, dim=-1, dtype=torch.float32).square()
    q = q if bias is None else q + 1
    expected, square = partial.sum(1)
    om, expected_squared = rows
    return HeadScores(q.sqrt() * expected, q * expected_squared, q.sqrt() * om * square.sqrt())
