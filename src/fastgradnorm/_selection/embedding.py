r"""Points of a Euclidean space, as they are or as outer products.

k-means++ seeding and k-center greedy need the squared distances from one sample to all others,
budget times. Of outer products `u_i ⊗ h_i` these follow from two small products,
`(u_i·u_j)(h_i·h_j)`, so that the `[n, C D]` gradient embeddings of BADGE are never formed.
"""

from dataclasses import dataclass
from typing import Protocol

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


def nearest_sq_distances(rows: Tensor, others: Tensor, chunk: int = 1024) -> Tensor:
    """Squared distance `[n]` from each of rows `[n, d]` to the nearest of others `[m, d]`."""
    parts = [torch.cdist(part, others).amin(1).square() for part in rows.split(chunk)]
    return torch.cat(parts)
