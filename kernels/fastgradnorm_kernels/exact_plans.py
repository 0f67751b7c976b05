"""Convolutions and their pull-backs as products: which inputs each output position sums over.

Forward or back, output position `y` of a phase has inputs at `y step + first + tap each` in each
dimension: a pull-back with a stride has as many phases as positions between two outputs, each with
taps of its own.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastgradnorm_kernels import half_parts
from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.half_parts import Weights
from fastgradnorm_kernels.shapes import Float

# Columns of the table of phases: first output, first input, taps and positions in each dimension,
# the place of the first tap's weights, and how many columns there are.
FIRST_OUT, FIRST_IN, TAPS, SIZES, PLACE, FACTS = 0, 3, 6, 9, 12, 16

_MOST = 4096  # plans that are kept, a few hundred bytes each


class Plan(NamedTuple):
    """A convolution, or a pull-back, of an input of some size.

    Attributes:
        phases: `[phases, 16]`, int32, see `FACTS`.
        most: Positions of the phase that has most.
        order: Taps in the order in which they are read, one phase after the other; None for all of
            them as they are.
        pulled: Whether it is a pull-back, which sums over output channels.
        space: Sizes of the input, of three dimensions.
        out: Sizes of the output.
        step: Inputs from one output of a phase to the next.
        out_step: Outputs from one of a phase to the next.
        each: Inputs from one tap of a phase to the next.
        shape: Of the output without its rows and channels, in the caller's dimensions.
    """

    phases: Tensor
    most: int
    order: Tensor | None
    pulled: bool
    space: tuple[int, ...]
    out: tuple[int, ...]
    step: tuple[int, ...]
    out_step: tuple[int, ...]
    each: tuple[int, ...]
    shape: tuple[int, ...]

    def weights(self, weight: Float[Tensor, "O I *kernel"]) -> Weights:
        """Their parts, in the order of the plan."""
        three = weight.reshape(*weight.shape[:2], *_three(weight.shape[2:], 1))
        channels = (0, 1) if self.pulled else (1, 0)
        taps = three.permute(2, 3, 4, *channels).flatten(0, 2)
        return half_parts.split_weights(taps if self.order is None else taps[self.order])


def _three(values: Sequence[int], fill: int) -> tuple[int, ...]:
    return (fill,) * (3 - len(values)) + tuple(values)


@functools.lru_cache(_MOST)  # what is copied to a device once is there for captured passes too
def forward_plan(geometry: Geometry, space: tuple[int, ...], device: torch.device) -> Plan:
    """Of a convolution of an input of that size."""
    out = geometry.out(space)
    taps, step, pads, each = (
        _three(values, fill) for values, fill in zip(geometry, (1, 1, 0, 1), strict=True)
    )
    sizes = _three(out, 1)
    row = [0, 0, 0, *(-pad for pad in pads), *taps, *sizes, 0, 0, 0, 0]
    phases = torch.tensor([row], dtype=torch.int32, device=device)
    around = _three(space, 1), sizes, step, (1, 1, 1), each, tuple(out)
    return Plan(phases, math.prod(sizes), None, False, *around)


@functools.lru_cache(_MOST)
def pull_plan(geometry: Geometry, space: tuple[int, ...], device: torch.device) -> Plan:
    """Of a convolution's pull-back to an input of that size."""
    kernel, stride, pads, dilation = (
        _three(values, fill) for values, fill in zip(geometry, (1, 1, 0, 1), strict=True)
    )
    sizes = _three(space, 1)
    # Taps of a phase are so far from each other that what they read is a whole number of strides.
    apart = [s // math.gcd(s, d) for s, d in zip(stride, dilation, strict=True)]
    each = tuple(-a * d // s for a, d, s in zip(apart, dilation, stride, strict=True))
    rows: list[list[int]] = []
    order: list[int] = []
    for phase in itertools.product(*map(range, stride)):
        found = [
            _phase(*facts)
            for facts in zip(phase, kernel, stride, pads, dilation, apart, sizes, strict=True)
        ]
        firsts, inputs, held = zip(*found, strict=True)
        taps = [range(*of_dim) for of_dim in zip(firsts, kernel, apart, strict=True)]
        counts = [len(of_dim) for of_dim in taps]
        rows.append([*phase, *inputs, *counts, *held, len(order), 0, 0, 0])
        order += [(z * kernel[1] + y) * kernel[2] + x for z, y, x in itertools.product(*taps)]
    most = max(math.prod(row[SIZES : SIZES + 3]) for row in rows)
    phases = torch.tensor(rows, dtype=torch.int32, device=device)
    around = _three(geometry.out(space), 1), sizes, (1, 1, 1), stride, each, tuple(space)
    return Plan(phases, most, torch.tensor(order, device=device), True, *around)


def _phase(
    phase: int, kernel: int, stride: int, pad: int, dilation: int, apart: int, size: int
) -> tuple[int, int, int]:
    """Its first tap in one dimension, what that reads for its first output, and its outputs."""
    positions = -(-(size - phase) // stride) if phase < size else 0
    for tap in range(min(apart, kernel)):
        if (phase + pad - tap * dilation) % stride == 0:
            return tap, (phase + pad - tap * dilation) // stride, positions
    return kernel, 0, positions
