"""Near-duplicates of chosen samples: how many the pool has, and which were chosen before."""

import torch

from fastgradnorm._selection.given import Given

# Cosine of points from which two samples are told to be near-duplicates.
ALIKE = 0.99
# Pairs that are looked at, at most: some seconds.
_PAIRS = 10**8


def alike(
    given: Given, positions: torch.Tensor, similarity: float = ALIKE, chunk: int = 256
) -> list[tuple[int, int | None]] | None:
    r"""Of each chosen sample its near-duplicates, :math:`\cos(x_i, x_j) > s`.

    Args:
        given: With points.
        positions: `[k]` of the chosen among the candidates, best first.
        similarity: s.
        chunk: Of chosen samples at a time.

    Returns:
        How many of the other candidates are, and the rank of the first chosen one before it that
        is, or None; None altogether where there are more pairs than are looked at.
    """
    points, _ = given.units()
    if len(positions) * len(points) > _PAIRS:
        return None
    chosen = points[positions]
    found: list[tuple[int, int | None]] = []
    for start in range(0, len(positions), chunk):
        some = chosen[start : start + chunk]
        counts = ((some @ points.T) > similarity).sum(1)
        own = some.square().sum(1) > similarity  # not of points that are zero
        among = (some @ chosen.T) > similarity
        for row, near in enumerate(among):
            before = near[: start + row].nonzero()
            first = int(before[0]) + 1 if len(before) else None
            found.append((int(counts[row]) - int(own[row]), first))
    return found
