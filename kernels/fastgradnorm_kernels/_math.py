"""Device functions of the head kernels: one row of logits, with its largest entry taken out.

A row's `top` is the largest logit, `base` the largest of the others, and over those others, with
`v_j = z_j - base`, there are the sums `t = Σ e^v`, `t2 = Σ e^2v`, `tv = Σ v e^v`. Relative to
`base` nothing underflows however confident the row is: `1 - p_top` enters only at the end, as
`e^(base - top) t`.
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

    Its error of `|v| 6e-8` weighs `e^v` in sums that have a term of 1: the rounding is left alone.
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

    Their sums times κ and `1/t²` are those of `p_j ‖p - e_j‖` and of `(r_j (u_j - om m))²`. There
    `‖p - e_j‖² = 1 - 2 p_j + ‖p‖²` does not cancel, as `p_j <= 1/2`.
    """
    y = e * (v + c)
    return e * tl.sqrt(A - 2.0 * kappa * e), y * y


@triton.jit
def top_terms(om, p_top, rr, m):
    """`p_k ‖p - e_k‖`, `1 - ‖p‖²` and `(p_k m)²` for the top class k."""
    expected = p_top * om * tl.sqrt(1.0 + rr)
    return expected, om * (1.0 + p_top - om * rr), p_top * m * p_top * m
