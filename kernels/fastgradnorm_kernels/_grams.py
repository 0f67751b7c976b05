"""Device functions of the ghost kernel: tiles of the activations' and of the gradients' Gram."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl

from fastgradnorm_kernels._addresses import aligned


@triton.jit
def tile_pair(pair):
    """Row and column, row >= column, of the `pair`-th tile of a lower triangle."""
    row = ((tl.sqrt(8.0 * tl.cast(pair, tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    row = tl.where(row * (row + 1) // 2 > pair, row - 1, row)
    row = tl.where((row + 1) * (row + 2) // 2 <= pair, row + 1, row)
    return row, pair - row * (row + 1) // 2


@triton.jit
def tile_positions(
    tile,
    T,
    stack,
    pairs,
    STACKED: tl.constexpr,
    SHARED: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """A tile's positions, which of the stacked cotangents each is of, and whether there is one."""
    row = tl.arange(0, BLOCK_T)
    if SHARED:
        # Of several tiles each has positions of one cotangent. Of one, up to 128 places are divided
        # by T, exactly: its inverse is rounded up by less than 1, and 128^2 < 2^20. As divisions
        # they would be a fifth of all that is compiled.
        place = tile * BLOCK_T + row
        inside = place < T * stack
        slot = place * tl.where(pairs == 1, tl.cdiv(1 << 20, T), 0) >> 20
        t = tl.where(inside, place - slot * T, 0)
    elif STACKED:
        slot = row // T
        inside = slot < stack
        t = tl.where(inside, row % T, 0)
    else:
        slot = tl.zeros_like(row)
        inside = tile * BLOCK_T + row < T
        t = tl.where(inside, tile * BLOCK_T + row, 0)
    # Hints are given where a number is made: those on a function's argument are lost.
    return tl.max_contiguous(tl.multiple_of(t, VECTOR), VECTOR), slot, inside


@triton.jit
def input_places(t, OUT, STEPS, PLAIN: tl.constexpr, FLAT: tl.constexpr):
    """Elements from a sample's first position to its positions `t`."""
    if PLAIN:
        return t * STEPS[2]
    if FLAT:
        return t // OUT[1] * STEPS[1] + t % OUT[1] * STEPS[2]
    z, y, x = t // (OUT[0] * OUT[1]), t // OUT[1] % OUT[0], t % OUT[1]
    return z * STEPS[0] + y * STEPS[1] + x * STEPS[2]


@triton.jit
def _add_product(left, right, gram, PRECISION: tl.constexpr, PROMOTE: tl.constexpr):
    """`gram + left rightᵀ`."""
    if PROMOTE:  # see `direct_norm`
        depth: tl.constexpr = left.shape[1]
        return gram + tl.dot(left, right.T, input_precision=PRECISION, max_num_imprecise_acc=depth)
    return tl.dot(left, right.T, gram, input_precision=PRECISION)


@triton.jit
def activation_gram(
    x_ptr,
    rows,  # [BLOCK_T], elements from `x_ptr` to the first inputs of these positions
    columns,
    I,
    channels,
    KERNEL,
    TAPS,
    PLAIN: tl.constexpr,
    FLAT: tl.constexpr,
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
            if not FLAT:
                z += (y >= KERNEL[0]).to(tl.int32)
                y = tl.where(y >= KERNEL[0], 0, y)
    return gram


@triton.jit
def gradient_gram(
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


@triton.jit
def gradient_steps(
    t,
    slot,  # which of the stacked cotangents
    left,  # cotangents that are left
    g_stride,
    g_stride_k,
    STACKED: tl.constexpr,
    POSITIONS_LAST: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """Elements from a cotangent's first gradient to those of its positions `t`."""
    steps = t if POSITIONS_LAST else t * g_stride
    if STACKED:
        steps = steps + tl.cast(tl.where(slot < left, slot, 0), tl.int64) * g_stride_k
        if POSITIONS_LAST:
            steps = tl.max_contiguous(tl.multiple_of(steps, VECTOR), VECTOR)
        else:
            steps = tl.multiple_of(steps, VECTOR)
    return steps
