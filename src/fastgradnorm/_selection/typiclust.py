"""TypiClust (Hacohen et al., 2022, https://arxiv.org/abs/2202.02794): typical ones of clusters.

As many clusters as there are labels and samples to choose, 500 at most, over labelled and
unlabelled points. From the largest cluster with the fewest labelled or chosen ones the most typical
sample: the inverse of the mean distance to its 20 nearest neighbours in the cluster. Clusters of
fewer than five points come last.
"""

import torch
from torch import Tensor

from fastgradnorm._selection.clusters import k_means, nearest_center
from fastgradnorm._selection.given import Chosen, Given, chosen
from fastgradnorm._selection.kernel import lifted

_MOST_CLUSTERS = 500
_NEIGHBOURS = 20
_SMALL = 5
_CHUNK = 1024


def typiclust(given: Given) -> Chosen:
    """Clusters are found on at most 20,000 seeded points, and all are assigned to them."""
    points, labelled = given.directions()
    whole = torch.cat([points, labelled])
    base = whole[given.references(len(whole))]
    count = min(len(labelled) + given.k, _MOST_CLUSTERS, len(base))
    centers = k_means(base, count, given.generator())
    places, _ = nearest_center(whole, centers)
    mine, theirs = places[: len(points)], places[len(points) :]
    sizes = torch.bincount(places, minlength=count)
    taken = torch.bincount(theirs, minlength=count)
    typical: dict[int, tuple[Tensor, Tensor]] = {}
    positions: list[int] = []
    for _ in range(given.k):
        given.free.check()
        left = torch.bincount(mine[given.free.mask], minlength=count)
        cluster = _next_cluster(sizes, taken, left)
        if cluster not in typical:
            members = (mine == cluster).nonzero()[:, 0]
            typical[cluster] = members, _typicality(points[members])
        members, values = typical[cluster]
        open_ = given.free.mask[members]
        i = int(members[torch.where(open_, values, -torch.inf).argmax()])
        given.free.take(i)
        taken[cluster] += 1
        positions.append(i)
    return chosen(positions)


def _next_cluster(sizes: Tensor, taken: Tensor, left: Tensor) -> int:
    """With something left, not small, with the fewest taken, the largest."""
    order = zip((left == 0).tolist(), (sizes < _SMALL).tolist(), taken.tolist(), sizes.tolist())  # noqa: B905
    keys = [(empty, small, used, -size) for empty, small, used, size in order]
    return min(range(len(keys)), key=keys.__getitem__)


def _typicality(points: Tensor) -> Tensor:
    """`[n]`, over the points of one cluster."""
    neighbours = min(_NEIGHBOURS, len(points) - 1)
    if neighbours < 1:
        return points.new_zeros(len(points))
    points = points - points.mean(0)  # a cluster is small beside its distance from the others
    found, columns = [], lifted(points)[1]
    for start in range(0, len(points), _CHUNK):
        part = points[start : start + _CHUNK]
        sq = -2 * (lifted(part)[0] @ columns)
        rows = torch.arange(len(part), device="cpu")
        sq[rows, rows + start] = torch.inf
        nearest = sq.topk(neighbours, largest=False).values.clamp_min(0).sqrt()
        found.append(1 / (nearest.mean(1) + 1e-5))
    return torch.cat(found)
