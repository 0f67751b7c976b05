"""Similarities of points by their distance: the Gaussian kernel and its bandwidth, the ball."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# From half squared distances, negative, to similarities in [0, 1], in place.
Kernel = Callable[[Tensor], Tensor]

_SAMPLE = 1_000
_ONE = 1e-6  # what rounding leaves of no distance
_NEAR = 1e-3  # of the root mean square distance


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

    Where that is one of near-duplicates, a thousandth of the root mean square distance or less, as
    of a pool in which every third picture is blank, of near-duplicates one each counts: a kernel as
    narrow as two copies of a picture differ covers nothing else. 1 where all points are one.
    """
    if len(points) > _SAMPLE:
        points = points[torch.from_numpy(generator.choice(len(points), _SAMPLE, replace=False))]
    points = points.double()
    distances = torch.pdist(points)
    if not len(distances):
        return 1.0
    found = float(distances.quantile(level))
    least = max(_ONE, _NEAR * float(distances.square().mean().sqrt()))
    if found < least:
        near = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") < least
        distances = torch.pdist(points[~near.tril(-1).any(1)])
        found = float(distances.quantile(level)) if len(distances) else 1.0
    return found
