r"""Greedy weighted coverage: each time the sample that most raises what is covered.

`Σ_r w_r max_{s ∈ labelled ∪ chosen} k(r, s)` over reference points r. What a sample would add only
shrinks as others are chosen, so that what it added at its last look is an upper bound: only
samples whose bound beats the best known one are looked at again (Minoux, 1978).

Similarities are computed in blocks of a few megabytes, never as a table of all pairs.
"""

import torch
from torch import Tensor

from fastgradnorm._selection.free import Free
from fastgradnorm._selection.given import Chosen, chosen
from fastgradnorm._selection.kernel import Kernel, lifted

_BLOCK = 1 << 21  # numbers
_LOOKS = 64  # samples that are looked at again at a time


class Coverage:
    """What is covered of reference points, as more samples are chosen.

    Args:
        points: Candidates `[n, D]`.
        references: Points `[r, D]`.
        weights: Of the references `[r]`, not negative.
        labelled: What covers from the beginning, `[m, D]`.
        kernel: Similarity, of half squared distances, negative.
    """

    def __init__(
        self,
        points: Tensor,
        references: Tensor,
        weights: Tensor,
        labelled: Tensor,
        kernel: Kernel,
    ) -> None:
        self._points, self._kernel = lifted(points)[0], kernel
        self._columns = lifted(references)[1]
        self._weights = weights.to(points.dtype)
        self.covered = points.new_zeros(len(references))
        known = lifted(labelled)[0]
        for start in range(0, len(known), self._rows()):
            part = known[start : start + self._rows()]
            torch.maximum(self.covered, self._similarities(part).amax(0), out=self.covered)

    def gains(self, places: Tensor) -> Tensor:
        """What candidates would add `[len(places)]`."""
        found = self._points.new_empty(len(places))
        for start in range(0, len(places), self._rows()):
            part = slice(start, start + self._rows())
            block = self._similarities(self._points[places[part]])
            found[part] = block.sub_(self.covered).clamp_min_(0) @ self._weights
        return found

    def add(self, place: int) -> None:
        """Chooses a candidate."""
        row = self._similarities(self._points[place : place + 1])[0]
        torch.maximum(self.covered, row, out=self.covered)

    def _similarities(self, rows: Tensor) -> Tensor:
        return self._kernel(rows @ self._columns)

    def _rows(self) -> int:
        return max(1, _BLOCK // max(1, self._columns.shape[1]))


def cover(coverage: Coverage, k: int, free: Free, points: Tensor, labelled: Tensor) -> Chosen:
    """Positions `[k]`, greedily, and what each added.

    Once nothing adds anything, the farthest from all labelled and chosen ones, each time.

    Raises:
        ValueError: If fewer than `k` may be chosen.
    """
    bounds = torch.full((len(points),), -torch.inf, device="cpu")
    places = free.mask.nonzero()[:, 0]
    bounds[places] = coverage.gains(places)
    positions: list[int] = []
    gains: list[float] = []
    far: _Far | None = None
    for _ in range(k):
        free.check()
        bounds.masked_fill_(~free.mask, -torch.inf)
        if positions and far is None:
            _look(coverage, bounds)
        i = int(bounds.argmax())
        if float(bounds[i]) <= 0 and far is None:
            far = _Far(points, torch.cat([labelled, points[positions]]))
        if far is not None:
            i, gain = free.pick(-far.nearest), 0.0
            far.add(i)
        else:
            free.take(i)
            gain = float(bounds[i])
            coverage.add(i)
        positions.append(i)
        gains.append(gain)
    return chosen(positions, gains)


def _look(coverage: Coverage, bounds: Tensor) -> None:
    """Looks at candidates again until the highest bound is what that one would add."""
    fresh = torch.zeros_like(bounds, dtype=torch.bool)
    while True:
        top = bounds.topk(min(_LOOKS, len(bounds)))
        stale = top.indices[(~fresh[top.indices]) & (top.values > 0)]
        best = bounds[fresh].max() if bool(fresh.any()) else -torch.inf
        stale = stale[bounds[stale] >= best]
        if not len(stale):
            return
        bounds[stale] = torch.minimum(bounds[stale], coverage.gains(stale))
        fresh[stale] = True


class _Far:
    """Half the squared distance, negative, of each point to the nearest labelled or chosen one."""

    def __init__(self, points: Tensor, others: Tensor) -> None:
        self._rows, self._columns = lifted(points)
        self.nearest = points.new_full((len(points),), -torch.inf)
        for part in others.split(256):
            torch.maximum(self.nearest, (self._rows @ lifted(part)[1]).amax(1), out=self.nearest)

    def add(self, i: int) -> None:
        torch.maximum(self.nearest, self._rows @ self._columns[:, i], out=self.nearest)
