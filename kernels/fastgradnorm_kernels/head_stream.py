"""Long rows of logits to their three scores, in one read: `logit_head` for many classes.

A program owns a row, and each of its W lanes every W-th class. A lane keeps its largest logit apart
and adds up the rest relative to the largest of these, so that no lane waits for another before the
end. The row's largest logit is then taken out, and the lanes' others join the sums.

Two sums need the totals of the row before they can be formed from the logits. `Σ r² (u - om m)²` is
`Σ r² (v - mean)²`, which lanes merge without cancellation (Chan et al. 1979), and a square. `Σ e
√(A - 2 κ e)` is a series in κ for entries of small probability; where a lane holds a second one
above `_SERIES`, the row is read again.
"""

# ruff: noqa: RUF005 - Triton knows no starred expressions
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,assignment"

import triton
import triton.language as tl

from fastgradnorm_kernels._addresses import aligned
from fastgradnorm_kernels._math import (
    LOG2_E,
    above_floor,
    exp,
    finite,
    other_shares,
    other_sums,
    row_terms,
    top_terms,
)

_NAN = tl.constexpr(tl.PropagateNan.ALL)
# The series is cut after four terms: 5/8 p⁴, 1e-7 here, is what the next one would add to 1.
_SERIES = tl.constexpr(0.02)
_TINY = tl.constexpr(1e-30)


@triton.jit
def _loaded(row_ptr, columns, C, MASKED: tl.constexpr):
    """Logits of these classes in float32, -inf past the last."""
    if MASKED:
        return tl.load(row_ptr + columns, mask=columns < C, other=-float("inf")).to(tl.float32)
    return tl.load(row_ptr + columns).to(tl.float32)


@triton.jit
def _steps(state, row_ptr, start, C, MASKED: tl.constexpr, W: tl.constexpr, STEPS: tl.constexpr):
    """The lanes' state after STEPS more classes each, from `start` on."""
    top, base, t, t2, t3, t4, tv, mean, m2 = state
    new_base, others = base, ()
    for i in tl.static_range(STEPS):
        z = _loaded(row_ptr, start + i * W + tl.arange(0, W), C, MASKED)
        x = tl.minimum(top, z, propagate_nan=_NAN)  # whatever is not the largest
        top = tl.maximum(top, z)
        new_base = tl.maximum(new_base, x)
        others = others + (x,)
    safe = finite(new_base)
    d = above_floor(base - safe)
    f = exp(d)
    f2 = f * f
    tv = (tv + t * d) * f
    t, t2, t3, t4 = t * f, t2 * f2, t3 * f2 * f, t4 * f2 * f2
    mean, m2 = mean + d, m2 * f2
    s2, sv, vs, squares = tl.zeros_like(t), tl.zeros_like(t), (), ()
    for i in tl.static_range(STEPS):
        v = above_floor(others[i] - safe)
        e = tl.exp2(v * LOG2_E)
        e2 = e * e
        t += e
        s2 += e2
        t3 += e2 * e
        t4 += e2 * e2
        tv += e * v
        sv += e2 * v
        vs, squares = vs + (v,), squares + (e2,)
    new_mean = sv / tl.maximum(s2, _TINY)
    for i in tl.static_range(STEPS):
        u = vs[i] - new_mean
        m2 += squares[i] * u * u
    share, gap = t2 / tl.maximum(t2 + s2, _TINY), new_mean - mean
    m2 += s2 * share * gap * gap
    return top, new_base, t, t2 + s2, t3, t4, tv, new_mean - share * gap, m2


@triton.jit
def _again(row_ptr, C, base, A, kappa, W: tl.constexpr):
    """`Σ e √(A - 2 κ e)` over what :func:`_steps` calls others, from the logits."""
    top = tl.full([W], -float("inf"), tl.float32)
    total = tl.zeros([W], tl.float32)
    for start in range(0, C, W):
        z = _loaded(row_ptr, start + tl.arange(0, W), C, True)
        x = tl.minimum(top, z, propagate_nan=_NAN)
        top = tl.maximum(top, z)
        e = tl.exp2(above_floor(x - base) * LOG2_E)
        total += e * tl.sqrt(A - 2.0 * kappa * e)
    return tl.sum(total, 0)


@triton.jit
def _head_scores_stream_kernel(
    logits_ptr,  # [N, C], rows `stride_n` apart
    q_ptr,  # [N]
    expected_ptr,  # [N], float32
    expected_squared_ptr,  # [N], float32
    entropy_ptr,  # [N], float32
    C,
    stride_n,
    W: tl.constexpr,
    STEPS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * aligned(stride_n, VECTOR)
    C = aligned(C, VECTOR)
    nothing, zero = tl.full([W], -float("inf"), tl.float32), tl.zeros([W], tl.float32)
    state = (nothing, nothing, zero, zero, zero, zero, zero, zero, zero)
    whole = C // (W * STEPS) * (W * STEPS)
    for start in range(0, whole, W * STEPS):
        state = _steps(state, row_ptr, start, C, False, W, STEPS)
    for start in range(whole, C, W * STEPS):
        state = _steps(state, row_ptr, start, C, True, W, STEPS)
    tops, bases, t, t2, t3, t4, tv, mean, m2 = state
    top, lane = tl.max(tops, 0, return_indices=True)
    losers = tl.where(tl.arange(0, W) == lane, -float("inf"), tops)  # the lanes' largest
    base = tl.max(tl.maximum(bases, losers), 0)
    d, v = above_floor(bases - finite(base)), above_floor(losers - finite(base))
    f, e = exp(d), exp(v)
    delta = above_floor(base - top)
    sums = (tl.sum(t * f + e, 0), tl.sum(t2 * f * f + e * e, 0))
    om, p_top, inverse, rr, m = row_terms(
        delta, sums[0], sums[1], tl.sum((tv + t * d) * f + e * v, 0)
    )
    A, kappa, c = other_sums(delta, om, p_top, inverse, rr, m)
    own, own_squares = other_shares(e, v, A, kappa, c)
    k = kappa / A * f
    series = tl.sum(f * (t - k * (t2 + k * (0.5 * t3 + k * 0.5 * t4))), 0) * tl.sqrt(A)
    if kappa * tl.max(f, 0) > _SERIES:
        series = _again(row_ptr, C, finite(base), A, kappa, W)
    u = mean + d + c
    square = tl.sum(own_squares + f * f * (m2 + t2 * u * u), 0) * inverse * inverse
    expected, expected_squared, top_square = top_terms(om, p_top, rr, m)
    expected += kappa * (tl.sum(own, 0) + series)
    q = tl.load(q_ptr + row).to(tl.float32)
    root = tl.sqrt_rn(q)
    tl.store(expected_ptr + row, root * expected)
    tl.store(expected_squared_ptr + row, q * expected_squared)
    tl.store(entropy_ptr + row, root * (om * tl.sqrt_rn(top_square + square)))
