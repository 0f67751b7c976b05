"""Uncertainty herding (Bae et al., 2025, https://arxiv.org/abs/2412.20644).

Coverage weighted by the margin, `1 - (p₁ - p₂)`, with a radius that shrinks as labels come in: the
smallest distance between two labelled points, which is not zero. The paper also fits a temperature
to held-out labels; labels are never read here, so that it is the caller's option `temperature`.
"""

import torch
from torch import Tensor

from fastgradnorm._selection.given import Chosen, Given
from fastgradnorm._selection.herding import herd
from fastgradnorm._selection.kernel import Kernel, gaussian, lifted


def uncertainty_herding(given: Given) -> Chosen:
    """Weighted by margin; before there are two labelled points, as wide as `herding`."""
    radius = smallest_distance(*given.directions())
    kernel: Kernel | None = None if radius is None else gaussian(radius)
    return herd(given, given.need("margins"), kernel)


def smallest_distance(points: Tensor, labelled: Tensor, chunk: int = 512) -> float | None:
    """Of labelled points that differ by more than rounding; None if there are none.

    Args:
        points: Candidates, around zero: rounding is of the size of their numbers.
        labelled: `[m, D]`.
        chunk: Of labelled points at a time.
    """
    most = max((float(x.abs().max()) for x in (points, labelled) if x.numel()), default=0.0)
    least, found = 1e-3 * min(1.0, most), torch.inf
    rows, columns = lifted(labelled)
    for start in range(0, len(rows), chunk):
        sq = -2 * (rows[start : start + chunk] @ columns).double()
        far = sq[sq > least**2]
        found = min(found, float(far.min()) if len(far) else torch.inf)
    return None if found == torch.inf else found**0.5
