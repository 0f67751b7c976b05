"""k-center greedy: each time the farthest."""

import torch
from torch import Tensor

from fastgradnorm._selection.embedding import Embedding, sq_distances
from fastgradnorm._selection.free import Free


def k_center(
    points: Embedding, k: int, nearest: Tensor | None = None, free: Free | None = None
) -> Tensor:
    """Positions `[k]` by k-center greedy: each time the point farthest from all chosen ones.

    (Gonzalez, 1985; core-set selection of Sener and Savarese, 2018,
    https://arxiv.org/abs/1708.00489.)

    Args:
        points: n of them.
        k: At most n.
        nearest: Squared distance `[n]` of each to the nearest of what was chosen before; None:
            nothing was, and the first is the one of largest norm.
        free: Which may be chosen; None: all.

    Raises:
        ValueError: If fewer than `k` may be chosen.
    """
    sq_norms = points.sq_norms
    reach = sq_norms if nearest is None else nearest
    free = Free(len(reach)) if free is None else free
    chosen: list[int] = []
    for _ in range(k):
        i = free.pick(reach.nan_to_num(nan=0.0))
        distances = sq_distances(points, sq_norms, i)
        reach = distances if nearest is None and not chosen else torch.minimum(reach, distances)
        chosen.append(i)
    return torch.tensor(chosen, dtype=torch.int64, device="cpu")
