"""Uncertainty herding (Bae et al., 2025, https://arxiv.org/abs/2412.20644).

Coverage weighted by the margin, `1 - (p₁ - p₂)`, with a radius that shrinks as labels come in: the
smallest distance between two labelled points, which is not zero. The paper also fits a temperature
to held-out labels; labels are never read here, so that it is the caller's option `temperature`.
"""

import torch
from torch import Tensor

from fastgradnorm._selection.given import Chosen, Given
from fastgradnorm._selection.herding import herd
from fastgradnorm._selection.kernel import Kernel, gaussian


def uncertainty_herding(given: Given) -> Chosen:
    """Weighted by margin; before there are two labelled points, as wide as `herding`."""
    _, labelled = given.units()
    radius = _smallest_distance(labelled)
    kernel: Kernel | None = None if radius is None else gaussian(radius)
    return herd(given, given.need("margins"), kernel)


def _smallest_distance(units: Tensor, chunk: int = 512, least: float = 1e-3) -> float | None:
    """Of points that differ by more than rounding; None if there are none."""
    found = torch.inf
    for start in range(0, len(units), chunk):
        sq = 2 - 2 * (units[start : start + chunk] @ units.T).double()
        far = sq[sq > least**2]
        found = min(found, float(far.min()) if len(far) else torch.inf)
    return None if found == torch.inf else found**0.5
