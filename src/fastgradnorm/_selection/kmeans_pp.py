"""k-means++ seeding: samples that are far from each other, drawn."""

import numpy as np
import torch
from torch import Tensor

from fastgradnorm._selection.embedding import Embedding, sq_distances
from fastgradnorm._selection.free import Free


def kmeans_pp(
    points: Embedding,
    k: int,
    generator: np.random.Generator,
    weights: Tensor | None = None,
    free: Free | None = None,
) -> Tensor:
    """Positions `[k]` of distinct points, by k-means++ seeding (Arthur and Vassilvitskii, 2007).

    The first is the one of largest norm (as in BADGE), or of largest weight; each further one is
    drawn with probability ∝ its squared distance to the nearest chosen one, times its weight.
    Where nothing is left at a distance, it is drawn from the rest alike.

    Args:
        points: n of them.
        k: At most n.
        generator: Of the draws.
        weights: `[n]`, not negative.
        free: Which may be chosen; None: all.

    Raises:
        ValueError: If fewer than `k` may be chosen.
    """
    sq_norms = points.sq_norms
    nearest = torch.full_like(sq_norms, torch.inf)
    free = Free(len(sq_norms)) if free is None else free
    chosen: list[int] = []
    for _ in range(k):
        if not chosen:
            i = free.pick(sq_norms if weights is None else weights)
        else:
            free.check()
            chances = nearest if weights is None else nearest * weights
            i = _draw(chances, free.mask, generator)
            free.take(i)
        chosen.append(i)
        nearest = torch.minimum(nearest, sq_distances(points, sq_norms, i))
    return torch.tensor(chosen, dtype=torch.int64, device="cpu")


def _draw(chances: Tensor, free: Tensor, generator: np.random.Generator) -> int:
    """A free position, with probability ∝ its chance."""
    chances = torch.where(free, chances.nan_to_num(nan=0.0), 0.0)
    if not float(chances.sum()) > 0:
        chances = free.double()
    positions = chances.nonzero()[:, 0]
    total = chances[positions].cumsum(0)
    at = int(torch.searchsorted(total, generator.random() * float(total[-1]), right=True))
    return int(positions[min(at, len(positions) - 1)])
