"""Largest cluster maximum distance (Holzmüller et al., 2023, https://arxiv.org/abs/2203.09410).

All points belong to the nearest labelled or chosen one. Of the cluster with the largest sum of
squared distances to its center, the point farthest from it is chosen.
"""

import torch
from torch import Tensor

from fastgradnorm._selection.clusters import nearest_center
from fastgradnorm._selection.given import Chosen, Given, chosen


def lcmd(given: Given) -> Chosen:
    """Over points as they are; without labelled ones the first is the one of largest norm."""
    points, labelled = given.centered()
    sq_norms = points.square().sum(1)
    positions: list[int] = []
    if len(labelled):
        place, distance = nearest_center(points, labelled)
        centers = len(labelled)
    else:
        first = given.free.pick(given.need("points").double().square().sum(1))
        positions.append(first)
        place, centers = torch.zeros(len(points), dtype=torch.int64, device="cpu"), 1
        distance = _sq_distances(points, sq_norms, first)
    while len(positions) < given.k:
        given.free.check()
        size = torch.zeros(centers, dtype=torch.float64, device="cpu").index_add_(
            0, place, distance.double()
        )
        # A cluster whose points may not be chosen is none to choose from.
        open_ = torch.zeros(centers, dtype=torch.bool, device="cpu")
        open_[place[given.free.mask]] = True
        cluster = int(torch.where(open_, size, -torch.inf).argmax())
        i = given.free.pick(torch.where(place == cluster, distance, -1.0))
        positions.append(i)
        new = _sq_distances(points, sq_norms, i)
        nearer = new < distance
        place = torch.where(nearer, centers, place)
        distance = torch.where(nearer, new, distance)
        centers += 1
    return chosen(positions)


def _sq_distances(points: Tensor, sq_norms: Tensor, i: int) -> Tensor:
    found = (sq_norms + sq_norms[i] - 2 * (points @ points[i])).clamp_min_(0)
    found[i] = 0
    return found
