"""The best by a number, one drawn by it, or any: down an order, as far as samples may be chosen."""

import torch
from torch import Tensor

from fastgradnorm._errors import ArgumentError
from fastgradnorm._selection.by_score import Strategy, select
from fastgradnorm._selection.given import Chosen, Given, chosen


def by_score(given: Given, draw: Strategy = "top") -> Chosen:
    """By score, see `select`; one of zero is drawn where no other is left."""
    return by_value(given, given.need("scores"), draw)


def by_value(given: Given, values: Tensor, draw: Strategy = "top") -> Chosen:
    """By any number `[n]`, in the order of `select`."""
    if draw == "proportional":
        values = values.clamp_min(torch.finfo(values.dtype).tiny)
    usable = int((~values.isnan()).sum())
    return _down(given, select(values, usable, strategy=draw, seed=given.seed))


def at_random(given: Given) -> Chosen:
    """Any of them, all alike."""
    order = given.generator().permutation(len(given.free.mask))
    return _down(given, torch.from_numpy(order))


def _down(given: Given, order: Tensor) -> Chosen:
    positions: list[int] = []
    # A thousand at a time: looking each up in a tensor would be slow.
    for part in order.split(1024):
        for i in part[given.free.mask[part]].tolist():
            if len(positions) == given.k:
                return chosen(positions)
            if given.free.mask[i]:
                given.free.take(i)
                positions.append(i)
    if len(positions) < given.k:
        given.free.check()
        raise ArgumentError(
            f"`k` must be at most {len(positions)}, the number of samples whose score is not NaN.",
            "k",
        )
    return chosen(positions)
