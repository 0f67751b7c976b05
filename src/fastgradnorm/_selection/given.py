"""What a strategy is given to choose from, and what it gives back."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastgradnorm._selection.frames import centered, directions, unit_length
from fastgradnorm._selection.free import Free

# Coverage is exact up to so many candidates, and above that of so many seeded ones.
MOST = 20_000


@dataclass(frozen=True, eq=False)
class Given:
    """n candidates, and what is labelled already. What a strategy does not need may be None.

    Attributes:
        k: How many to choose.
        seed: Of everything random.
        free: Which may be chosen.
        scores: `[n]`, higher is labelled first, not negative.
        points: Of a Euclidean space, float32 `[n, D]`.
        labelled: Points `[m, D]` of what is labelled; of no rows where nothing is.
        probabilities: Of the classes, `[n, C]`.
        residuals: `p - e_ŷ` with all its digits, `[n, C]`.
        labelled_probabilities: `[m, C]`.
        margins: `1 - (p₁ - p₂)`, the mean over positions where there are several, `[n]`.
        entropies: `H(p)`, likewise.
        doubts: `1 - p₁`, likewise.
    """

    k: int
    seed: int
    free: Free
    scores: Tensor | None = None
    points: Tensor | None = None
    labelled: Tensor | None = None
    probabilities: Tensor | None = None
    residuals: Tensor | None = None
    labelled_probabilities: Tensor | None = None
    margins: Tensor | None = None
    entropies: Tensor | None = None
    doubts: Tensor | None = None

    def generator(self) -> np.random.Generator:
        """Random numbers that depend on the seed alone."""
        return np.random.default_rng(self.seed)

    def units(self) -> tuple[Tensor, Tensor]:
        """Points of candidates `[n, D]` and of what is labelled `[m, D]`, of unit length."""
        points, labelled = self._points()
        return unit_length(points), unit_length(labelled)

    def directions(self) -> tuple[Tensor, Tensor]:
        """The same less the mean of the candidates, for strategies that go by distances."""
        return directions(*self._points())

    def centered(self) -> tuple[Tensor, Tensor]:
        """Points less the mean of the candidates, in any unit, for ratios of distances."""
        return centered(*self._points())

    def _points(self) -> tuple[Tensor, Tensor]:
        points = self.need("points")
        return points, points[:0] if self.labelled is None else self.labelled

    def need(self, name: str) -> Tensor:
        """An attribute that must be there."""
        found = getattr(self, name)
        assert isinstance(found, Tensor), f"a strategy was not given `{name}`"
        return found

    def references(self, count: int, most: int = MOST) -> Tensor:
        """Places of all of `count`, or of `most` of them drawn by the seed, in order."""
        if count <= most:
            return torch.arange(count, device="cpu")
        drawn = self.generator().choice(count, most, replace=False)
        return torch.from_numpy(np.sort(drawn))


@dataclass(frozen=True, eq=False)
class Chosen:
    """What a strategy chose.

    Attributes:
        positions: `[k]` among the candidates, in the order they were chosen.
        gains: What each added to what the strategy maximises, `[k]`; None if nothing is.
    """

    positions: Tensor
    gains: Tensor | None = None


def chosen(positions: list[int], gains: list[float] | None = None) -> Chosen:
    """Of lists."""
    found = torch.tensor(positions, dtype=torch.int64, device="cpu")
    return Chosen(
        found, None if gains is None else torch.tensor(gains, dtype=torch.float64, device="cpu")
    )
