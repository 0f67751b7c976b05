"""Device functions of the two head kernels: one row of logits, with its largest entry taken out.

A row's state is `(top, index, base, t, t2, tv)`: the largest logit and where it is, the largest of
the others, and over those others, with `v_j = z_j - base`, the sums `t = Σ e^v`, `t2 = Σ e^2v`, `tv
= Σ v e^v`. Relative to `base` nothing underflows however confident the row is: `1 - p_top` enters
only at the end, as `e^(base - top) t`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950216293335)  # float32
LOG2_E_LOW = tl.constexpr(1.9259629911266175e-08)  # what float32 leaves of log2(e)
LN_2 = tl.constexpr(0.6931471805599453)
# `e^FLOOR` is zero in float32: an entry at FLOOR is absent from every sum.
FLOOR = tl.constexpr(-128.0)
_NAN = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def exp(x):
    """`e^x` for finite `x`; the rounding of `x log2(e)`, 3e-6 at x = -69, is put back."""
    scaled = x * LOG2_E
    lost = tl.fma(x, LOG2_E, -scaled) + x * LOG2_E_LOW
    whole = tl.exp2(scaled)
    return whole + whole * (lost * LN_2)


@triton.jit
def exp_other(v):
    """`e^v` of classes other than the top one.

    Its error of `|v| 6e-8` weighs `e^v` in sums that have a term of 1: the rounding is left as it is.
    """
    return tl.exp2(v * LOG2_E)


@triton.jit
def above_floor(x):
    """`x`, or FLOOR where smaller; NaN stays NaN."""
    return tl.maximum(x, FLOOR, propagate_nan=_NAN)


@triton.jit
def finite(base):
    """`base`, or zero where there is no other class to stand on."""
    return tl.where(base == -float("inf"), 0.0, base)


@triton.jit
def empty_state(BLOCK_N: tl.constexpr):
    """The state of `BLOCK_N` rows before any of their logits."""
    nothing = tl.full([BLOCK_N], -float("inf"), tl.float32)
    zero = tl.zeros([BLOCK_N], tl.float32)
    return nothing, tl.zeros([BLOCK_N], tl.int32), nothing, zero, zero, zero


@triton.jit
def merge(state, other):
    """The state of the union of two disjoint sets of classes; the first wins ties."""
    top, index, base, t, t2, tv = state
    o_top, o_index, o_base, o_t, o_t2, o_tv = other
    loser = tl.minimum(top, o_top)  # joins the others
    new_base = tl.maximum(tl.maximum(base, o_base), loser)
    safe = finite(new_base)
    d, o_d, l_d = above_floor(base - safe), above_floor(o_base - safe), above_floor(loser - safe)
    f, o_f, l_f = exp(d), exp(o_d), exp(l_d)
    new_t = t * f + o_t * o_f + l_f
    new_t2 = t2 * f * f + o_t2 * o_f * o_f + l_f * l_f
    new_tv = (tv + t * d) * f + (o_tv + o_t * o_d) * o_f + l_f * l_d
    new_index = tl.where(o_top > top, o_index, index)
    return tl.maximum(top, o_top), new_index, new_base, new_t, new_t2, new_tv


@triton.jit
def tile_state(z, classes):
    """The state of rows `z` [BLOCK_N, BLOCK_C] with class numbers `classes` [BLOCK_C]."""
    # NaN is no maximum, and always among the others, whose sums it makes NaN.
    is_number = z == z
    numbers = tl.where(is_number, z, -float("inf"))
    top, column = tl.max(numbers, 1, return_indices=True)
    others = (tl.arange(0, z.shape[1])[None, :] != column[:, None]) | ~is_number
    base = tl.max(tl.where(others, numbers, -float("inf")), 1)
    v = tl.where(others, above_floor(z - finite(base)[:, None]), FLOOR)
    e = exp_other(v)
    index = column.to(tl.int32) + tl.min(classes, 0)
    return top, index, base, tl.sum(e, 1), tl.sum(e * e, 1), tl.sum(e * v, 1)


@triton.jit
def row_terms(delta, t, t2, tv):
    """What a row's sums give, with `delta = base - top`.

    `1 - p_top`, `p_top`, `1/t`, `‖r‖²` and `m = Σ r u`, with `r_j = e^v_j / t` and `u_j = v_j +
    delta`.
    """
    s = exp(delta) * t
    inverse = 1.0 / tl.maximum(t, 1.0)  # t >= 1 wherever there is a second class
    return s / (1.0 + s), 1.0 / (1.0 + s), inverse, t2 * inverse * inverse, tv * inverse + delta


@triton.jit
def other_sums(delta, om, p_top, inverse, rr, m):
    """What the shares of the other classes have in common: `A = 1 + ‖p‖²`, `κ = om / t` and c."""
    return 1.0 + (p_top * p_top + om * om * rr), om * inverse, delta - om * m


@triton.jit
def other_shares(e, v, A, kappa, c):
    """`e √(A - 2 κ e)` and `(e (v + c))²`, with `e = e^v`, of classes other than the top one.

    Their sums times κ and `1/t²` are those of `p_j ‖p - e_j‖`, where `‖p - e_j‖² = 1 - 2 p_j + ‖p‖²`
    does not cancel as `p_j <= 1/2`, and of `(r_j (u_j - om m))²`.
    """
    y = e * (v + c)
    return e * tl.sqrt(A - 2.0 * kappa * e), y * y


@triton.jit
def top_terms(om, p_top, rr, m):
    """`p_k ‖p - e_k‖`, `1 - ‖p‖²` and `(p_k m)²` for the top class k."""
    expected = p_top * om * tl.sqrt(1.0 + rr)
    return expected, om * (1.0 + p_top - om * rr), p_top * m * p_top * m
