"""Similarities of points by their distance: the Gaussian kernel and its bandwidth, the ball."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# From half squared distances, negative, to similarities in [0, 1], in place.
Kernel = Callable[[Tensor], Tensor]

_SAMPLE = 1_000


def gaussian(bandwidth: float) -> Kernel:
    r"""`exp(-‖x - y‖² / 2σ²)`."""
    scale = 1 / bandwidth**2

    def kernel(nearness: Tensor) -> Tensor:
        return nearness.clamp_max_(0).mul_(scale).exp_()

    return kernel


def ball(radius: float) -> Kernel:
    """1 within `radius`, else 0."""
    least = -(radius**2) / 2

    def kernel(nearness: Tensor) -> Tensor:
        return torch.ge(nearness, least, out=nearness)

    return kernel


def lifted(points: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `[n, D + 2]` and columns `[D + 2, n]` whose product is `-‖x - y‖² / 2`.

    Of points around zero that is right to their own rounding, where `1 - x·y` of unit-length ones
    that lie close together is nothing but rounding.
    """
    half = points.square().sum(1, keepdim=True) / -2
    one = torch.ones_like(half)
    return torch.cat([points, half, one], 1), torch.cat([points, one, half], 1).T.contiguous()


def distance_quantile(points: Tensor, level: float, generator: np.random.Generator) -> float:
    """A quantile of the distances between points, over 1,000 drawn ones.

    Where that is zero, the smallest distance that is not; 1 where all points are one.
    """
    if len(points) > _SAMPLE:
        points = points[torch.from_numpy(generator.choice(len(points), _SAMPLE, replace=False))]
    distances = torch.pdist(points.double())
    if not len(distances):
        return 1.0
    found = float(distances.quantile(level))
    if found < 1e-6:
        positive = distances[distances > 1e-6]
        found = float(positive.min()) if len(positive) else 1.0
    return found
