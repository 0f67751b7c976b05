"""ProbCover (Yehuda et al., 2022, https://arxiv.org/abs/2205.11320): coverage by balls.

Each time the sample whose ball has the most points that no labelled or chosen ball has. The radius
is the largest at which 95 % of the balls are pure: of one cluster of k-means, with as many clusters
as there are classes.
"""

import torch
from torch import Tensor

from fastgradnorm._selection.clusters import k_means, nearest_center
from fastgradnorm._selection.given import Chosen, Given
from fastgradnorm._selection.herding import herd
from fastgradnorm._selection.kernel import ball, lifted

_PURE = 0.95
_SAMPLE = 5_000
_CHUNK = 1024


def probcover(given: Given) -> Chosen:
    """By balls of that radius around unit-length points."""
    points, _ = given.directions()
    classes = given.need("probabilities").shape[1]
    return herd(given, None, ball(_radius(given, points, max(2, classes))))


def _radius(given: Given, points: Tensor, classes: int) -> float:
    """A ball is pure as long as it ends before the nearest point of another cluster."""
    points = points[given.references(len(points), _SAMPLE)]
    centers = k_means(points, min(classes, len(points)), given.generator())
    places, _ = nearest_center(points, centers)
    reach, (rows, columns) = [], lifted(points)
    for start in range(0, len(points), _CHUNK):
        part = slice(start, start + _CHUNK)
        sq = (-2 * (rows[part] @ columns)).clamp_min_(0)
        sq[places[part, None] == places] = torch.inf
        reach.append(sq.amin(1).sqrt())
    found = torch.cat(reach)
    found = found[found.isfinite()]
    return float(found.double().quantile(1 - _PURE)) if len(found) else 2.0
