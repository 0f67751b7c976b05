"""Logits [N, C] and `q` [N] to the three scores of a linear last layer, in one read of the logits.

The formulas are those of :func:`fastgradnorm_kernels.reference.head_scores` (Settles et al. 2007;
Wang et al. 2022, arXiv 2112.05683), with the predicted class taken out of every sum. Up to 16384
classes one program owns BLOCK_N whole rows and keeps them in registers. Beyond, one program owns
one row and sweeps it twice; the second sweep finds most of the row in the L2 cache.
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
    exp,
    finite,
    merge,
    other_terms,
    row_terms,
    tile_state,
    top_terms,
)
from fastgradnorm_kernels._validate import check_head
from fastgradnorm_kernels.reference import HeadScores
from fastgradnorm_kernels.shapes import Float

# Logits a program holds at a time: 8 to 32 a thread. Chosen by the compiler's register report for
# sm_80 and sm_90 (no spills); not measured on a GPU.
_WIDTHS = (16, 64, 128, 256, 1024, 4096, 16384)
_SWEEP_WIDTH = 4096


@triton.jit
def _store_scores(out_ptrs, rows, mask, q, expected, expected_squared, entropy):
    """Writes the three scores of `rows`."""
    root = tl.sqrt_rn(q)
    tl.store(out_ptrs[0] + rows, root * expected, mask=mask)
    tl.store(out_ptrs[1] + rows, q * expected_squared, mask=mask)
    tl.store(out_ptrs[2] + rows, root * entropy, mask=mask)


@triton.jit
def _head_scores_kernel(
    logits_ptr,  # [N, C], rows `stride_n` apart
    q_ptr,  # [N]
    expected_ptr,  # [N], float32
    expected_squared_ptr,  # [N], float32
    entropy_ptr,  # [N], float32
    N,
    C,
    stride_n,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_C)
    inside = rows < N
    present = (columns < C)[None, :]
    offsets = rows[:, None] * stride_n + columns[None, :]
    z = tl.load(logits_ptr + offsets, mask=inside[:, None] & present, other=0.0).to(tl.float32)
    z = tl.where(present, z, -float("inf"))
    top = tl.max(z, 1)
    is_top = z == top[:, None]
    # Rows in registers compare equal exactly, so ties are counted: cheaper than finding an index.
    ties = tl.sum(tl.where(is_top & present, 1.0, 0.0), 1) - 1.0
    second = tl.max(tl.where(is_top, -float("inf"), z), 1)
    base = tl.where((ties > 0) | (second == -float("inf")), top, second)
    v = tl.where(is_top, FLOOR, above_floor(z - base[:, None]))  # [BLOCK_N, BLOCK_C]
    e = exp(v)
    tied = tl.maximum(ties, 0.0)
    t, t2 = tl.sum(e, 1) + tied, tl.sum(e * e, 1) + tied
    delta = above_floor(base - top)
    om, p_top, inverse, rr, m = row_terms(delta, t, t2, tl.sum(e * v, 1))
    terms, squares = other_terms(
        v,
        delta[:, None],
        om[:, None],
        p_top[:, None],
        inverse[:, None],
        rr[:, None],
        m[:, None],
    )
    tied_term, tied_square = other_terms(delta - delta, delta, om, p_top, inverse, rr, m)
    top_term, expected_squared, top_square = top_terms(om, p_top, rr, m)
    expected = top_term + tl.sum(terms, 1) + tied * tied_term
    entropy = om * tl.sqrt_rn(top_square + tl.sum(squares, 1) + tied * tied_square)
    q = tl.load(q_ptr + rows, mask=inside, other=0.0).to(tl.float32)
    out_ptrs = (expected_ptr, expected_squared_ptr, entropy_ptr)
    _store_scores(out_ptrs, rows, inside, q, expected, expected_squared, entropy)


@triton.jit
def _head_scores_sweep_kernel(
    logits_ptr,  # [N, C], rows `stride_n` apart
    q_ptr,  # [N]
    expected_ptr,  # [N], float32
    expected_squared_ptr,  # [N], float32
    entropy_ptr,  # [N], float32
    N,
    C,
    stride_n,
    BLOCK_C: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    row_ptr = logits_ptr + rows[:, None] * stride_n
    state = empty_state(1)
    for start in range(0, C, BLOCK_C):
        columns = start + tl.arange(0, BLOCK_C)
        z = tl.load(row_ptr + columns[None, :], mask=(columns < C)[None, :], other=-float("inf"))
        state = merge(state, tile_state(z.to(tl.float32), columns))
    top, index, base, t, t2, tv = state
    delta = above_floor(base - top)
    om, p_top, inverse, rr, m = row_terms(delta, t, t2, tv)
    expected, expected_squared, square = top_terms(om, p_top, rr, m)
    for start in range(0, C, BLOCK_C):
        columns = start + tl.arange(0, BLOCK_C)
        z = tl.load(row_ptr + columns[None, :], mask=(columns < C)[None, :], other=-float("inf"))
        other = columns[None, :] != index[:, None]
        v = tl.where(other, above_floor(z.to(tl.float32) - finite(base)[:, None]), FLOOR)
        terms, squares = other_terms(v, delta, om, p_top, inverse, rr, m)
        expected += tl.sum(terms, 1)
        square += tl.sum(squares, 1)
    q = tl.load(q_ptr + rows).to(tl.float32)
    entropy = om * tl.sqrt_rn(square)
    out_ptrs = (expected_ptr, expected_squared_ptr, entropy_ptr)
    _store_scores(out_ptrs, rows, rows < N, q, expected, expected_squared, entropy)


def blocks(classes: int) -> dict[str, Any]:
    """Block sizes and warps for rows of `classes` logits."""
    width = next((w for w in _WIDTHS if w >= classes), None)
    if width is None:
        return {"BLOCK_C": _SWEEP_WIDTH, "num_warps": 8}
    warps = 4 if width < 4096 else width // 1024
    return {"BLOCK_N": max(1, 1024 // width), "BLOCK_C": width, "num_warps": warps}


def head_scores(logits: Float[Tensor, "N C"], q: Float[Tensor, " N"]) -> HeadScores:
    """Triton form of :func:`fastgradnorm_kernels.reference.head_scores`."""
    check_head(logits, q)
    n, c = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    out = [torch.empty(n, dtype=torch.float32, device=logits.device) for _ in range(3)]
    options = blocks(c) | LAUNCH
    arguments = (logits, q.contiguous(), *out, n, c, logits.stride(0))
    if n and "BLOCK_N" in options:
        _head_scores_kernel[(triton.cdiv(n, options["BLOCK_N"]),)](*arguments, **options)
    elif n:
        _head_scores_sweep_kernel[(n,)](*arguments, **options)
    return HeadScores(*out)
