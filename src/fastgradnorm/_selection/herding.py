r"""Herding by gradient norm: coverage of the pool, in which each sample weighs its gradient norm.

Each time the sample that most raises `Σ_x w(x) max_{s ∈ labelled ∪ chosen} k(x, s)`, with k the
Gaussian kernel on unit-length points and w the score; the coverage of MaxHerding (Bae et al., 2024,
https://arxiv.org/abs/2407.12212), weighted as in uncertainty herding (Bae et al., 2025,
https://arxiv.org/abs/2412.20644), with the gradient norm as the uncertainty.
"""

import torch
from torch import Tensor

from fastgradnorm._selection.coverage import Coverage, cover
from fastgradnorm._selection.given import Chosen, Given
from fastgradnorm._selection.kernel import Kernel, distance_quantile, gaussian

BANDWIDTH = 0.1  # quantile of the distances between points


def herding(given: Given) -> Chosen:
    """Weighted by score; the bandwidth is the 10 % quantile of distances."""
    return herd(given, given.need("scores"))


def herd(given: Given, weights: Tensor | None, kernel: Kernel | None = None) -> Chosen:
    """Greedy coverage of all candidates, or of 20,000 seeded ones where there are more.

    Args:
        given: Points.
        weights: `[n]`; None: all alike.
        kernel: None: Gaussian, its bandwidth the 10 % quantile of distances.
    """
    points, labelled = given.directions()
    places = given.references(len(points))
    if kernel is None:
        kernel = gaussian(distance_quantile(points, BANDWIDTH, given.generator()))
    weight = torch.ones(len(places), device="cpu") if weights is None else weights[places]
    # In float64, where the sum of what float32 can hold is a number, and its smallest are not zero.
    weight = weight.double().nan_to_num(0, 0, 0).clamp_min(0)
    if not bool((weight > 0).any()):
        weight = torch.ones_like(weight)  # nothing tells them apart
    weight = weight / weight.max()
    weight = (weight / weight.sum()).to(points.dtype)
    coverage = Coverage(points, points[places], weight, labelled, kernel)
    return cover(coverage, given.k, given.free, points, labelled)
