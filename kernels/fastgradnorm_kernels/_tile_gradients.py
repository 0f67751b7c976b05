"""Device function of the direct kernel: a tile of a sample's weight gradient."""

# ruff: noqa: RUF005 - Triton knows no starred expressions
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,assignment"

import triton
import triton.language as tl

from fastgradnorm_kernels._addresses import aligned


@triton.jit
def _add_product(g, a, gradient, PRECISION: tl.constexpr, PROMOTE: tl.constexpr):
    """`gradient + g a`."""
    if PROMOTE:
        # The matrix units round sums toward zero: long ones are added up outside of them. A last
        # argument that only other types heed keeps the two additions apart.
        depth: tl.constexpr = g.shape[1]
        return gradient + tl.dot(g, a, input_precision=PRECISION, max_num_imprecise_acc=depth)
    return tl.dot(g, a, gradient, input_precision=PRECISION)


@triton.jit
def tile_gradient(
    x_ptr,  # the sample's and group's first input
    x_steps,  # [1, BLOCK_I], elements from a position's first input to its inputs
    g_rows,  # pointers to the outputs at the first position, [PART_O, 1] for each part of the rows
    T,
    g_stride,
    OUT,
    STEPS,
    PLAIN: tl.constexpr,
    FLAT: tl.constexpr,
    POSITIONS_LAST: tl.constexpr,
    VECTOR_X: tl.constexpr,
    VECTOR_G: tl.constexpr,
    EVEN_T: tl.constexpr,
    BLOCK_T: tl.constexpr,
    PRECISION: tl.constexpr,
    PROMOTE: tl.constexpr,
):
    """The parts [PART_O, BLOCK_I] of a tile of the weights' gradient."""
    gradients = ()
    for part in tl.static_range(len(g_rows)):
        gradients = gradients + (tl.zeros([g_rows[part].shape[0], x_steps.shape[1]], tl.float32),)
    first = tl.arange(0, BLOCK_T)
    # The place of each position in space, and how far BLOCK_T positions are, in mixed radix.
    if FLAT:
        z, y, x = 0, first // OUT[1], first % OUT[1]
        more_z, more_y = 0, BLOCK_T // OUT[1]
    else:
        z, y, x = first // (OUT[0] * OUT[1]), first // OUT[1] % OUT[0], first % OUT[1]
        more_z, more_y = BLOCK_T // (OUT[0] * OUT[1]), BLOCK_T // OUT[1] % OUT[0]
    more_x = BLOCK_T % OUT[1]
    limit = aligned(T, VECTOR_G) if POSITIONS_LAST else T
    for start in range(0, T, BLOCK_T):
        t = start + first
        places = t * STEPS[2] if PLAIN else z * STEPS[0] + y * STEPS[1] + x * STEPS[2]
        g_steps = t if POSITIONS_LAST else t * g_stride
        if not EVEN_T:
            # Triton 3.9 forgets what divides a choice, and then loads number by number.
            places = tl.multiple_of(tl.where(t < T, places, 0), VECTOR_X)
        loaded, added = (), ()
        for part in tl.static_range(len(g_rows)):
            if EVEN_T:
                g = tl.load(g_rows[part] + g_steps[None, :])  # [PART_O, BLOCK_T]
            else:
                mask = (t < limit)[None, :]
                g = tl.load(g_rows[part] + g_steps[None, :], mask=mask, other=0.0)
            loaded = loaded + (g,)
        a = tl.load(x_ptr + (places[:, None] + x_steps))  # [BLOCK_T, BLOCK_I]
        for part in tl.static_range(len(g_rows)):
            added = added + (_add_product(loaded[part], a, gradients[part], PRECISION, PROMOTE),)
        gradients = added
        if not PLAIN:
            x += more_x
            y += more_y + (x >= OUT[1]).to(tl.int32)
            x = tl.where(x >= OUT[1], x - OUT[1], x)
            if not FLAT:
                z += more_z + (y >= OUT[0]).to(tl.int32)
                y = tl.where(y >= OUT[0], y - OUT[0], y)
    return gradients
