"""Which of three equal formulas gives a weight gradient's squared norm in the fewest operations."""

from typing import Literal

Form = Literal["closed form", "ghost", "direct"]


def choose_form(positions: int, inputs: int, outputs: int, cotangents: int) -> Form:
    """The cheapest form for T positions, I inputs, O outputs and K cotangents of one sample.

    Per cotangent, ghost costs `T² (O + I/K)`, the activation Gram being shared by all K, and direct
    `T·O·I`. Depends on this call's shape alone: a choice is never remembered for another.

    Example:
        >>> choose_form(1, 512, 10, 10), choose_form(16, 4608, 512, 10)
        ('closed form', 'ghost')
        >>> choose_form(1024, 576, 64, 10)
        'direct'
    """
    if positions == 1:
        return "closed form"
    ghost = positions * (outputs + inputs / max(1, cotangents))
    return "ghost" if ghost < outputs * inputs else "direct"


# How fast tiles of Grams are formed, as a share of the rate of tiles of gradients: on an NVIDIA
# H200 in bfloat16 (`benchmarks/results/gpu_tiles.txt`: six layers for which both were timed agree
# with .62 to a third), and off the matrix units, where a Gram's tile is too narrow to feed them.
_GRAMS, _IEEE_GRAMS = 0.62, 0.25


def choose_tiled_form(
    positions: int, inputs: int, outputs: int, cotangents: int, ieee: bool
) -> Form:
    """As `choose_form`, for kernels: what whole tiles cost, and at which rate.

    `ieee` says that products are off the matrix units.

    Example:
        >>> choose_form(196, 256, 1024, 10), choose_tiled_form(196, 256, 1024, 10, False)
        ('ghost', 'direct')
    """
    if positions == 1:
        return "closed form"
    side = 128 if positions > 64 and not ieee else 64
    blocks = -(-positions // side)
    numbers = blocks * (blocks + 1) // 2 * side * side
    stacked = max(1, side // max(1, positions))
    ghost = numbers * (outputs / stacked + inputs / max(1, cotangents))
    depth = 16 if ieee else 64
    direct = -(-positions // depth) * depth * outputs * inputs
    return "ghost" if ghost < (_IEEE_GRAMS if ieee else _GRAMS) * direct else "direct"


def form_flops(form: Form, positions: int, inputs: int, outputs: int, cotangents: int) -> int:
    """Floating-point operations of one sample in the given form, for all its K cotangents.

    Example:
        >>> form_flops("direct", positions=4, inputs=3, outputs=2, cotangents=1)
        60
    """
    if form == "closed form":
        return 2 * inputs + 2 * outputs * cotangents
    if form == "ghost":
        return 2 * positions * positions * (inputs + cotangents * outputs)
    return 2 * cotangents * outputs * inputs * (positions + 1)
