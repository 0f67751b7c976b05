"""Where kernels find numbers: sizes that compile nothing anew, facts the compiler cannot see."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl

# Sizes and strides differ from layer to layer: kernels are not compiled anew for each. What decides
# how wide a load may be is told by VECTOR_X and VECTOR_G.
NOT_SPECIALISED = [
    *("N", "K", "T", "I", "O", "groups", "channels", "row_tiles", "splits", "pairs"),
    *("chunk", "stack", "positions", "C", "all_channels", "blocks_p", "blocks_c"),
    *(
        "column_tiles",
        "every",
        "x_stride_n",
        "x_stride_group",
        "g_stride_n",
        "g_stride_k",
        "g_stride",
    ),
    *(f"x_stride_{dim}" for dim in "czyx"),
    *("OUT_Y", "OUT_X", "KERNEL_Y", "KERNEL_X"),
    *(f"{of}_{dim}" for of in ("SPACE", "PADDING") for dim in "ZYX"),
    *(f"{of}_step_{dim}" for of in "ti" for dim in "zyx"),
]


@triton.jit
def aligned(x, VECTOR: tl.constexpr):
    """`x`, a multiple of VECTOR, in a way that tells the compiler so."""
    return x // VECTOR * VECTOR


@triton.jit
def input_steps(
    i, channels, KERNEL, STEPS, PLAIN: tl.constexpr, FLAT: tl.constexpr, VECTOR: tl.constexpr
):
    """Elements from a position's first input to its inputs `i`."""
    if PLAIN:
        return i
    tap = i // channels
    if FLAT:
        steps = tap // KERNEL[1] * STEPS[1] + tap % KERNEL[1] * STEPS[2] + i % channels
    else:
        z, y, x = tap // (KERNEL[0] * KERNEL[1]), tap // KERNEL[1] % KERNEL[0], tap % KERNEL[1]
        steps = z * STEPS[0] + y * STEPS[1] + x * STEPS[2] + i % channels
    return tl.max_contiguous(tl.multiple_of(steps, VECTOR), VECTOR)
