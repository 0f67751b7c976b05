"""k-means over unit-length points, from seeded k-means++ centers."""

import numpy as np
import torch
from torch import Tensor

_ROUNDS = 25
_CHUNK = 4096


def nearest_center(points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Of each point `[n, D]` the place of its nearest center, and the squared distance."""
    sizes = centers.square().sum(1)
    places, distances = [], []
    for part in points.split(_CHUNK):
        sq = torch.addmm(sizes, part, centers.T, alpha=-2)
        least = sq.min(1)
        places.append(least.indices)
        distances.append(least.values + part.square().sum(1))
    return torch.cat(places), torch.cat(distances).clamp_min_(0)


def k_means(points: Tensor, k: int, generator: np.random.Generator) -> Tensor:
    """Centers `[k, D]` by Lloyd's rounds; a cluster that loses its points keeps its center."""
    centers = _seeds(points, k, generator)
    before = None
    for _ in range(_ROUNDS):
        places, _ = nearest_center(points, centers)
        if before is not None and torch.equal(places, before):
            break
        before = places
        counts = torch.bincount(places, minlength=k).to(points.dtype)
        sums = torch.zeros_like(centers).index_add_(0, places, points)
        centers = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centers)
    return centers


def _seeds(points: Tensor, k: int, generator: np.random.Generator) -> Tensor:
    first = int(generator.integers(len(points)))
    chosen, nearest = [first], (points - points[first]).square().sum(1).double()
    while len(chosen) < k:
        total = nearest.cumsum(0)
        if not float(total[-1]) > 0:  # all points are centers
            i = int(generator.integers(len(points)))
        else:
            at = torch.searchsorted(total, generator.random() * float(total[-1]), right=True)
            i = min(int(at), len(points) - 1)
        chosen.append(i)
        torch.minimum(nearest, (points - points[i]).square().sum(1).double(), out=nearest)
    return points[chosen].clone()
