r"""Choosing samples that differ: k-means++ seeding and k-center greedy, over any embedding.

Both need the squared distances from one sample to all others, budget times. Of outer products
`u_i ⊗ h_i` these follow from two small products, `(u_i·u_j)(h_i·h_j)`, so that the `[n, C D]`
gradient embeddings of BADGE are never formed.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Embedding(Protocol):
    """Points of a Euclidean space."""

    @property
    def sq_norms(self) -> Tensor:
        """Squared norms `[n]`, float64."""
        ...

    def dots(self, i: int) -> Tensor:
        """Inner products `[n]` with point i."""
        ...


@dataclass(frozen=True, eq=False)
class Rows:
    """Points `[n, d]`, float64, as they are."""

    rows: Tensor

    @property
    def sq_norms(self) -> Tensor:
        """Squared norms `[n]`."""
        return self.rows.square().sum(1)

    def dots(self, i: int) -> Tensor:
        """Inner products `[n]` with point i."""
        return self.rows @ self.rows[i]


@dataclass(frozen=True, eq=False)
class Outer:
    """Points `u_i ⊗ h_i`, for u `[n, C]` and h `[n, D]`, float64."""

    u: Tensor
    h: Tensor

    @property
    def sq_norms(self) -> Tensor:
        """Squared norms `[n]`."""
        return self.u.square().sum(1) * self.h.square().sum(1)

    def dots(self, i: int) -> Tensor:
        """Inner products `[n]` with point i."""
        return (self.u @ self.u[i]) * (self.h @ self.h[i])


def sq_distances(points: Embedding, sq_norms: Tensor, i: int) -> Tensor:
    """Squared distances `[n]` from point i; exactly 0 to itself."""
    found = (sq_norms + sq_norms[i] - 2 * points.dots(i)).clamp_min(0)
    found[i] = 0
    return found


def kmeans_pp(
    points: Embedding, k: int, generator: np.random.Generator, weights: Tensor | None = None
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
    """
    sq_norms = points.sq_norms
    nearest = torch.full_like(sq_norms, torch.inf)
    free = torch.ones_like(sq_norms, dtype=torch.bool)
    chosen: list[int] = []
    for _ in range(k):
        if not chosen:
            i = int((sq_norms if weights is None else weights).argmax())
        else:
            chances = nearest if weights is None else nearest * weights
            i = _draw(chances, free, generator)
        chosen.append(i)
        free[i] = False
        nearest = torch.minimum(nearest, sq_distances(points, sq_norms, i))
    return torch.tensor(chosen, dtype=torch.int64)


def _draw(chances: Tensor, free: Tensor, generator: np.random.Generator) -> int:
    """A free position, with probability ∝ its chance."""
    chances = torch.where(free, chances.nan_to_num(nan=0.0), 0.0)
    if not float(chances.sum()) > 0:
        chances = free.double()
    positions = chances.nonzero()[:, 0]
    total = chances[positions].cumsum(0)
    at = int(torch.searchsorted(total, generator.random() * float(total[-1]), right=True))
    return int(positions[min(at, len(positions) - 1)])


def k_center(points: Embedding, k: int, nearest: Tensor | None = None) -> Tensor:
    """Positions `[k]` by k-center greedy: each time the point farthest from all chosen ones.

    (Gonzalez, 1985; core-set selection of Sener and Savarese, 2018,
    https://arxiv.org/abs/1708.00489.)

    Args:
        points: n of them.
        k: At most n.
        nearest: Squared distance `[n]` of each to the nearest of what was chosen before; None:
            nothing was, and the first is the one of largest norm.
    """
    sq_norms = points.sq_norms
    reach = sq_norms if nearest is None else nearest
    free = torch.ones_like(reach, dtype=torch.bool)
    chosen: list[int] = []
    for _ in range(k):
        i = int(torch.where(free, reach.nan_to_num(nan=0.0), -1.0).argmax())
        distances = sq_distances(points, sq_norms, i)
        reach = distances if nearest is None and not chosen else torch.minimum(reach, distances)
        chosen.append(i)
        free[i] = False
    return torch.tensor(chosen, dtype=torch.int64)


def nearest_sq_distances(rows: Tensor, others: Tensor, chunk: int = 1024) -> Tensor:
    """Squared distance `[n]` from each of rows `[n, d]` to the nearest of others `[m, d]`."""
    parts = [torch.cdist(part, others).amin(1).square() for part in rows.split(chunk)]
    return torch.cat(parts)
