"""What chosen samples cover of a pool, whatever strategy chose them."""

import torch
from torch import Tensor

from fastgradnorm._selection.coverage import Coverage
from fastgradnorm._selection.given import Given
from fastgradnorm._selection.herding import BANDWIDTH
from fastgradnorm._selection.kernel import distance_quantile, gaussian


def covering(given: Given, positions: Tensor) -> tuple[float, list[float]]:
    """The share of the pool that is covered before, and what each in turn adds, all weighing alike.

    Over all candidates, or 20,000 seeded ones where there are more, under the kernel of `herding`.
    """
    points, labelled = given.directions()
    places = given.references(len(points))
    kernel = gaussian(distance_quantile(points, BANDWIDTH, given.generator()))
    weights = points.new_full((len(places),), 1 / max(1, len(places)))
    coverage = Coverage(points, points[places], weights, labelled, kernel)
    before = float(coverage.covered.double().mean()) if len(places) else 0.0
    gains = []
    for i in positions.tolist():
        gains.append(float(coverage.gains(torch.tensor([i], device="cpu"))[0]))
        coverage.add(i)
    return before, gains
