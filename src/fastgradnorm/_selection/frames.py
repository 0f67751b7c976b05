"""Points in a frame in which float32 keeps the digits that tell them apart.

Squares in float32 vanish below 1e-22 and overflow above 1e19, where gradients of certain samples
and features of no scale lie; and of points that are near each other but far from zero the inner
products differ in their last digits only. So lengths and means are taken in float64.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

_CHUNK = 4096


def unit_length(points: Tensor) -> Tensor:
    """Rows `[n, D]` of unit length; those that are zero stay it."""
    return _moved(points, None, 1.0, unit=True)


def directions(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Both of unit length, less the mean of the first: distances alone have a meaning."""
    mean = _mean(points, unit=True)
    return _moved(points, mean, 1.0, unit=True), _moved(others, mean, 1.0, unit=True)


def centered(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Both less the mean of the first, in a unit of their own: only ratios of distances count."""
    mean = _mean(points, unit=False)
    every = (part for rows in (points, others) for part in _wide(rows, unit=False))
    most = max((float((part - mean).abs().max()) for part in every), default=0.0)
    scale = most or 1.0
    return _moved(points, mean, scale, unit=False), _moved(others, mean, scale, unit=False)


def _wide(points: Tensor, unit: bool) -> Iterator[Tensor]:
    """A few thousand rows at a time, in float64."""
    for part in points.split(_CHUNK) if points.numel() else ():
        wide = part.double()
        yield normalize(wide, dim=1, eps=torch.finfo(wide.dtype).tiny) if unit else wide


def _mean(points: Tensor, unit: bool) -> Tensor:
    total = torch.zeros(points.shape[1], dtype=torch.float64, device="cpu")
    for part in _wide(points, unit):
        total += part.sum(0)
    return total / max(1, len(points))


def _moved(points: Tensor, mean: Tensor | None, scale: float, unit: bool) -> Tensor:
    found = [(x if mean is None else x - mean).div(scale).float() for x in _wide(points, unit)]
    return torch.cat(found) if found else points.float()
