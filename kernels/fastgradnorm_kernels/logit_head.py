"""Logits [N, C] and `q` [N] to the three scores of a linear last layer, in one read of the logits.

The formulas are those of :func:`fastgradnorm_kernels.reference.head_scores` (Settles et al. 2007;
Wang et al. 2022, arXiv 2112.05683), with the predicted class taken out of every sum. Of a few
classes, a thread owns a row. Up to `_TILED`, a program owns BLOCK_N whole rows and keeps them in
registers. Beyond, see :mod:`head_stream`. What bounds them is how many instructions a logit takes:
an H100 does some 60 while it reads the next one in float32, and 30 in bfloat16.
"""

# ruff: noqa: RUF005 - Triton knows no starred expressions
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,assignment"

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels import tiles
from fastgradnorm_kernels._addresses import aligned
from fastgradnorm_kernels._launch import LAUNCH
from fastgradnorm_kernels._math import (
    above_floor,
    exp_other,
    other_shares,
    other_sums,
    row_terms,
    top_terms,
)
from fastgradnorm_kernels._validate import check_head
from fastgradnorm_kernels.head_stream import _head_scores_stream_kernel
from fastgradnorm_kernels.reference import HeadScores
from fastgradnorm_kernels.shapes import Float

_NAN = tl.constexpr(tl.PropagateNan.ALL)
# Of long rows: classes at most, warps, and classes that a lane takes at a time.
_STREAMS = ((8192, 1, 16), (65536, 2, 8), (float("inf"), 4, 16))
_FAR = tl.constexpr(3.4e38)  # below every other logit
# Classes at most, of a row a thread and of rows in registers.
_THREADED, _TILED = 32, 2048


@triton.jit
def _store_scores(out_ptrs, rows, mask, q, expected, expected_squared, entropy):
    """Writes the three scores of `rows`."""
    root = tl.sqrt_rn(q)
    tl.store(out_ptrs[0] + rows, root * expected, mask=mask)
    tl.store(out_ptrs[1] + rows, q * expected_squared, mask=mask)
    tl.store(out_ptrs[2] + rows, root * entropy, mask=mask)


@triton.jit
def _halves(x):
    """The even and the odd columns of x `[N, columns]`."""
    return tl.split(tl.reshape(x, [x.shape[0], x.shape[1] // 2, 2]))


@triton.jit
def _columns(x, N: tl.constexpr, VECTOR: tl.constexpr):
    """The columns of x `[N, VECTOR]`, which were loaded at once, in their order."""
    if VECTOR == 1:
        found = (tl.reshape(x, [N]),)
    elif VECTOR == 2:
        found = tl.split(x)
    elif VECTOR == 4:
        even, odd = _halves(x)
        a, c = tl.split(even)
        b, d = tl.split(odd)
        found = (a, b, c, d)
    else:
        even, odd = _halves(x)
        ae, cg = _halves(even)
        bf, dh = _halves(odd)
        a, e = tl.split(ae)
        c, g = tl.split(cg)
        b, f = tl.split(bf)
        d, h = tl.split(dh)
        found = (a, b, c, d, e, f, g, h)
    return found


@triton.jit
def _head_scores_thread_kernel(
    logits_ptr,  # [N, C], rows `stride_n` apart
    q_ptr,  # [N]
    expected_ptr,  # [N], float32
    expected_squared_ptr,  # [N], float32
    entropy_ptr,  # [N], float32
    N,
    stride_n,
    CLASSES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    VECTOR: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = rows < N
    top = tl.full([BLOCK_N], -float("inf"), tl.float32)
    base, others = top, ()
    places = (rows * aligned(stride_n, VECTOR))[:, None] + tl.arange(0, VECTOR)[None, :]
    for start in tl.static_range(0, CLASSES, VECTOR):
        loaded = tl.load(logits_ptr + (places + start), mask=inside[:, None], other=0.0)
        loaded = _columns(loaded, BLOCK_N, VECTOR)
        for i in tl.static_range(VECTOR):
            z = loaded[i].to(tl.float32)
            x = tl.minimum(top, z, propagate_nan=_NAN)  # whatever is not the largest
            top = tl.maximum(top, z)
            base = tl.maximum(base, x)
            others = others + (x,)
    safe = tl.where(base == -float("inf"), top, base)
    t, vs, es = tl.zeros_like(top), (), ()
    t2, tv, shares, squares = t, t, t, t
    for i in tl.static_range(CLASSES):
        v = above_floor(others[i] - safe)
        e = exp_other(v)
        t += e
        t2 += e * e
        tv += e * v
        vs, es = vs + (v,), es + (e,)
    delta = above_floor(base - top)
    om, p_top, inverse, rr, m = row_terms(delta, t, t2, tv)
    A, kappa, c = other_sums(delta, om, p_top, inverse, rr, m)
    for i in tl.static_range(CLASSES):
        share, square = other_shares(es[i], vs[i], A, kappa, c)
        shares += share
        squares += square
    expected, expected_squared, top_square = top_terms(om, p_top, rr, m)
    entropy = om * tl.sqrt_rn(top_square + squares * inverse * inverse)
    q = tl.load(q_ptr + rows, mask=inside, other=0.0).to(tl.float32)
    out_ptrs = (expected_ptr, expected_squared_ptr, entropy_ptr)
    expected += kappa * shares
    _store_scores(out_ptrs, rows, inside, q, expected, expected_squared, entropy)


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
    VECTOR: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_C)
    inside = rows < N
    offsets = rows[:, None] * aligned(stride_n, VECTOR) + columns[None, :]
    present = inside[:, None] & (columns < aligned(C, VECTOR))[None, :]
    z = tl.load(logits_ptr + offsets, mask=present, other=-float("inf")).to(tl.float32)
    top = tl.max(z, 1)
    # Rows in registers compare equal exactly, so ties are counted: cheaper than finding an index.
    is_top = tl.where(z == top[:, None], 1.0, 0.0)
    ties = tl.sum(is_top, 1) - 1.0
    others = z - is_top * _FAR  # a multiplication and addition in one; a choice is two instructions
    second = tl.max(others, 1)
    base = tl.where((ties > 0) | (second < -0.5 * _FAR), top, second)
    tied = tl.maximum(ties, 0.0)
    v = above_floor(others - base[:, None])  # [BLOCK_N, BLOCK_C]
    e = exp_other(v)
    t, t2 = tl.sum(e, 1) + tied, tl.sum(e * e, 1) + tied
    delta = above_floor(base - top)
    om, p_top, inverse, rr, m = row_terms(delta, t, t2, tl.sum(e * v, 1))
    A, kappa, c = other_sums(delta, om, p_top, inverse, rr, m)
    shares, squares = other_shares(e, v, A[:, None], kappa[:, None], c[:, None])
    tied_share, tied_square = other_shares(1.0, 0.0, A, kappa, c)
    square = (tl.sum(squares, 1) + tied * tied_square) * inverse * inverse
    expected, expected_squared, top_square = top_terms(om, p_top, rr, m)
    expected += kappa * (tl.sum(shares, 1) + tied * tied_share)
    entropy = om * tl.sqrt_rn(top_square + square)
    q = tl.load(q_ptr + rows, mask=inside, other=0.0).to(tl.float32)
    out_ptrs = (expected_ptr, expected_squared_ptr, entropy_ptr)
    _store_scores(out_ptrs, rows, inside, q, expected, expected_squared, entropy)


def blocks(classes: int) -> dict[str, Any]:
    """Block sizes and warps for rows of `classes` logits.

    Measured on an NVIDIA H100: `benchmarks/results/gpu_heads.json`. A warp that has a row to itself
    waits for no other. They depend on nothing but C, so that a score does not on its batch.
    """
    if classes <= _THREADED:
        return {"CLASSES": classes, "BLOCK_N": 128, "num_warps": 4}
    if classes <= _TILED:
        width = max(16, triton.next_power_of_2(classes))
        rows, warps = max(1, 1024 // width), max(1, width // 1024)
        return {"BLOCK_N": rows, "BLOCK_C": width, "num_warps": warps}
    warps, steps = next(found for most, *found in _STREAMS if classes <= most)
    return {"W": 128 * warps, "STEPS": steps, "num_warps": warps}


def _vector(logits: Tensor) -> int:
    """Logits that a load may take at once, wherever a row begins."""
    return math.gcd(16 // logits.element_size(), logits.shape[1], logits.stride(0))


def head_scores(logits: Float[Tensor, "N C"], q: Float[Tensor, " N"]) -> HeadScores:
    """Triton form of :func:`fastgradnorm_kernels.reference.head_scores`."""
    check_head(logits, q)
    n, c = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    out = [torch.empty(n, dtype=torch.float32, device=logits.device) for _ in range(3)]
    options = blocks(c) | LAUNCH | {"VECTOR": _vector(logits)}
    arguments, stride = (logits, q.contiguous(), *out), logits.stride(0)
    if n and "CLASSES" in options:
        grid = (triton.cdiv(n, options["BLOCK_N"]),)
        _head_scores_thread_kernel[grid](*arguments, n, stride, **options)
    elif n and "BLOCK_N" in options:
        grid = (triton.cdiv(n, options["BLOCK_N"]),)
        _head_scores_kernel[grid](*arguments, n, c, stride, **options)
    elif n:
        options |= tiles.registers(logits.device, options["num_warps"])
        _head_scores_stream_kernel[(n,)](*arguments, c, stride, **options)
    return HeadScores(*out)
