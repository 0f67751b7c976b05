"""Similarities of unit-length points: the Gaussian kernel and its bandwidth, and the ball."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# From inner products of unit-length points to similarities in [0, 1], in place.
Kernel = Callable[[Tensor], Tensor]

_SAMPLE = 1_000


def gaussian(bandwidth: float) -> Kernel:
    r"""`exp(-‖x - y‖² / 2σ²)`, where `‖x - y‖² = 2 - 2 x·y`."""
    scale = 1 / bandwidth**2

    def kernel(dots: Tensor) -> Tensor:
        return dots.clamp_max_(1).sub_(1).mul_(scale).exp_()

    return kernel


def ball(radius: float) -> Kernel:
    """1 within `radius`, else 0."""
    least = 1 - radius**2 / 2

    def kernel(dots: Tensor) -> Tensor:
        return torch.ge(dots, least, out=dots)

    return kernel


def distance_quantile(units: Tensor, level: float, generator: np.random.Generator) -> float:
    """A quantile of the distances between unit-length points, over 1,000 drawn ones.

    Where that is zero, the smallest distance that is not; 1 where all points are one.
    """
    if len(units) > _SAMPLE:
        units = units[torch.from_numpy(generator.choice(len(units), _SAMPLE, replace=False))]
    distances = torch.pdist(units.double())
    if not len(distances):
        return 1.0
    found = float(distances.quantile(level))
    if found < 1e-6:
        positive = distances[distances > 1e-6]
        found = float(positive.min()) if len(positive) else 1.0
    return found
