"""Convolutions and their pull-backs as products: which inputs each output position sums over.

Forward or back, output position `y` of a phase has inputs at `y step + first + tap each` in each
dimension: a pull-back with a stride has as many phases as positions between two outputs, each with
taps of its own.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastgradnorm_kernels import half_parts
from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.half_parts import Weights

# Columns of the table of phases: first output, first input, taps and positions in each dimension,
# the place of the first tap's weights, and how many columns there are.
FIRST_OUT, FIRST_IN, TAPS, SIZES, PLACE, FACTS = 0, 3, 6, 9, 12, 16


class Plan(NamedTuple):
    """A convolution, or a pull-back, with its weights in the order in which they are read.

    Attributes:
        weights: Of all phases' taps, one phase after the other.
        phases: `[phases, 16]`, int32, see `FACTS`.
        most: Positions of the phase that has most.
        space: Sizes of the input, of three dimensions.
        out: Sizes of the output.
        step: Inputs from one output of a phase to the next.
        out_step: Outputs from one of a phase to the next.
        each: Inputs from one tap of a phase to the next.
        shape: Of the output without its rows and channels, in the caller's dimensions.
    """

    weights: Weights
    phases: Tensor
    most: int
    space: tuple[int, ...]
    out: tuple[int, ...]
    step: tuple[int, ...]
    out_step: tuple[int, ...]
    each: tuple[int, ...]
    shape: tuple[int, ...]


def _three(values: Sequence[int], fill: int) -> tuple[int, ...]:
    return (fill,) * (3 - len(values)) + tuple(values)


def _weights(weight: Tensor) -> Tensor:
    """`[O, I, *kernel]` with three dimensions of space."""
    return weight.reshape(*weight.shape[:2], *_three(weight.shape[2:], 1))


def forward_plan(weight: Tensor, geometry: Geometry, space: Sequence[int]) -> Plan:
    """Of a convolution of an input of that size."""
    out = geometry.out(space)
    taps, step, pads, each = (
        _three(values, fill) for values, fill in zip(geometry, (1, 1, 0, 1), strict=True)
    )
    sizes = _three(out, 1)
    row = [0, 0, 0, *(-pad for pad in pads), *taps, *sizes, 0, 0, 0, 0]
    ordered = _weights(weight).permute(2, 3, 4, 1, 0).flatten(0, 2)  # [taps, I, O]
    phases = torch.tensor([row], dtype=torch.int32, device=weight.device)
    return Plan(
        half_parts.split_weights(ordered),
        *(phases, math.prod(sizes), _three(space, 1), sizes),
        *(step, (1, 1, 1), each, tuple(out)),
    )


def pull_plan(weight: Tensor, geometry: Geometry, space: Sequence[int]) -> Plan:
    """Of a convolution's pull-back to an input of that size."""
    kernel, stride, pads, dilation = (
        _three(values, fill) for values, fill in zip(geometry, (1, 1, 0, 1), strict=True)
    )
    sizes = _three(space, 1)
    # Taps of a phase are so far from each other that what they read is a whole number of strides.
    apart = [s // math.gcd(s, d) for s, d in zip(stride, dilation, strict=True)]
    each = tuple(-a * d // s for a, d, s in zip(apart, dilation, stride, strict=True))
    rows, chosen, place = [], [], 0
    for phase in itertools.product(*map(range, stride)):
        found = [
            _phase(*facts)
            for facts in zip(phase, kernel, stride, pads, dilation, apart, sizes, strict=True)
        ]
        firsts, inputs, held = zip(*found, strict=True)
        taps = [range(*of_dim) for of_dim in zip(firsts, kernel, apart, strict=True)]
        counts = [len(of_dim) for of_dim in taps]
        rows.append([*phase, *inputs, *counts, *held, place, 0, 0, 0])
        chosen += list(itertools.product(*taps))
        place += math.prod(counts)
    index = torch.tensor(chosen, device=weight.device).T
    ordered = _weights(weight).permute(2, 3, 4, 0, 1)[tuple(index)]  # [taps, O, I]
    return Plan(
        half_parts.split_weights(ordered),
        torch.tensor(rows, dtype=torch.int32, device=weight.device),
        max(math.prod(row[SIZES : SIZES + 3]) for row in rows),
        _three(geometry.out(space), 1),
        *(sizes, (1, 1, 1), stride, each, tuple(space)),
    )


def _phase(
    phase: int, kernel: int, stride: int, pad: int, dilation: int, apart: int, size: int
) -> tuple[int, int, int]:
    """Its first tap in one dimension, what that reads for its first output, and its outputs."""
    positions = -(-(size - phase) // stride) if phase < size else 0
    for tap in range(min(apart, kernel)):
        if (phase + pad - tap * dilation) % stride == 0:
            return tap, (phase + pad - tap * dilation) // stride, positions
    return kernel, 0, positions
