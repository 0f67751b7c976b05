r"""Which classes to pull back where not all of them are: the heaviest, and a few drawn of the rest.

Given weights `w_c ≥ 0` (how large each class's term should be) and a number n of classes, the
heaviest e are certain, and d = n - e are drawn from the others by systematic sampling. With these
in order of weight on a line, every class as long as its weight, the classes are taken that lie at
`(i + u) h`, `i = 0..d-1`, `h = Σ_others w / d`, for one `u` uniform in [0, 1). So class c is drawn
with probability `w_c / h`, never twice (e is the smallest number that leaves only `w_c < h`), and

    Σ_certain y_c + Σ_drawn (h / w_c) y_c

has the expectation `Σ_c y_c` whatever the terms y are. It errs only by how far the ratios `y_c/w_c`
differ: were they independent with variance σ², by `σ² V`, `V = Σ_others w_c (h - w_c)`, which the
weights alone tell. Madow (1949); Hájek (1971) for the variance.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fastgradnorm._schemes.posterior import sums_up_to


class Line(NamedTuple):
    """Classes in order of weight, `[N, C]` each, float64."""

    order: Tensor
    weights: Tensor  # descending
    rest: Tensor  # weights from this one on, summed
    squares: Tensor  # their squares, summed


class Draw(NamedTuple):
    """Classes to pull back for each of N samples, n at most.

    Attributes:
        classes: `[N, n]`.
        factors: `[N, n]`, one over the probability of each; 0 where a sample has fewer classes.
        variance: `[N]`, V; 0 where the classes are all that carry weight.
        counts: `[N]`, how many classes each sample has.
        numbers: The same, read: the host waits for the device once.
    """

    classes: Tensor
    factors: Tensor
    variance: Tensor
    counts: Tensor
    numbers: list[int]


def line(weights: Tensor) -> Line:
    """The classes of weights `[N, C]` in order."""
    ordered, order = weights.double().sort(dim=-1, descending=True, stable=True)
    return Line(order, ordered, _sums_from(ordered), _sums_from(ordered.square()))


def counts_for(line: Line, variance: Tensor, least: int) -> Tensor:
    """The smallest numbers of classes `[N]`, at least `least`, with V within `variance` `[N]`."""
    high = (line.weights > 0).sum(-1).clamp_min(1)
    low = high.clamp_max(least)
    for _ in range(line.weights.shape[1].bit_length()):
        # On a GPU to look costs more than to go on.
        if low.device.type == "cpu" and bool((low == high).all()):
            break
        middle = (low + high) // 2
        enough = _variance(line, middle)[0] <= variance
        low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
    return low


def draw(line: Line, counts: Tensor, u: Tensor) -> Draw:
    """`counts` `[N]` classes of each sample; `u` `[N]` uniform in [0, 1)."""
    variance, certain, step = _variance(line, counts)
    numbers: list[int] = counts.tolist()
    place = torch.arange(max(numbers), device=counts.device).expand(len(counts), -1)
    drawn = place >= certain[:, None]
    # Positions on the line of all classes, of which the certain ones take the first part.
    sums = sums_up_to(line.weights)
    start = line.rest[:, :1] - _at(line.rest, certain)
    at = start + (place - certain[:, None] + u.double()[:, None]) * step[:, None]
    found = torch.searchsorted(sums, at, right=True)
    last = (line.weights > 0).sum(-1, keepdim=True) - 1
    found = torch.minimum(torch.maximum(found, certain[:, None]), last.clamp_min(0))
    place = torch.where(drawn, found, place)
    factors = torch.where(drawn, step[:, None] / line.weights.gather(1, place), 1.0)
    wanted = torch.arange(factors.shape[1], device=counts.device) < counts[:, None]
    factors = torch.where(wanted, factors, 0.0)
    return Draw(line.order.gather(1, place), factors, variance, counts, numbers)


def _variance(line: Line, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """V, the number of certain classes and the step, `[N]` each."""
    place = torch.arange(line.weights.shape[1], device=counts.device)
    left = counts[:, None] - place
    remaining = (line.weights > 0).sum(-1, keepdim=True) - place
    heavy = (left > 0) & ((left >= remaining) | (line.weights * left >= line.rest))
    certain = heavy.long().cumprod(-1).sum(-1)
    rest = _at(line.rest, certain)[:, 0]
    step = rest / (counts - certain).clamp_min(1)
    variance = (rest * step - _at(line.squares, certain)[:, 0]).clamp_min(0)
    return torch.where(certain < counts, variance, 0.0), certain, step


def _at(sums: Tensor, certain: Tensor) -> Tensor:
    """`[N, 1]`; what is left after all classes is nothing."""
    padded = torch.cat([sums, torch.zeros_like(sums[:, :1])], -1)
    return padded.gather(1, certain[:, None])


def _sums_from(values: Tensor) -> Tensor:
    return sums_up_to(values.flip(-1)).flip(-1)
