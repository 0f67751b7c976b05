"""Rounds of pull-backs: each sample gets as many as its own standard error asks for.

A forward pass without gradients gives the logits, and these the first classes. Every round runs the
samples that want more of them anew, in groups of about as many pull-backs: a second forward pass
costs a fraction of one pull-back. What a group pulls back beyond a sample's own wish are zeros, so
that a score does not depend on its group. Where passes are captured, groups are filled up to one of
a few sizes, so that the passes of later rounds and batches are replayed.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from fastgradnorm_kernels import accumulation_dtype
from torch import Tensor
from torch.nn.functional import pad

from fastgradnorm._engine.passes import Passes
from fastgradnorm._engine.plan import Plan
from fastgradnorm._model import Batch
from fastgradnorm._schemes import (
    TABLE,
    Draw,
    Objective,
    Partial,
    Posterior,
    Scored,
    class_cotangents,
    posterior,
    total_norms,
    unit_sized,
)

# What it takes to start one tapped operation, in floating-point operations of a forward pass: about
# 2.5 ms beside a pull-back at 60 GFLOP/s of those on one core; a GPU starts no faster.
_START = {"cpu": 1.6e8}
_START_GPU = 1e10


def score_in_rounds(
    passes: Passes, plan: Plan, objective: Objective, batch: Batch, reduction: str
) -> tuple[Scored, int]:
    """Scores and standard errors from as many classes as these need, and how many those were."""
    logits = passes.logits(batch)
    whole = posterior(logits.to(accumulation_dtype(logits.dtype)))
    partial = Partial(whole, objective.powers, objective.rtol, objective.uniform)
    scores: dict[str, Tensor] = {}
    pulled = 0
    start = _start(plan, logits.device)

    def norms(drawn: Draw, own: Sequence[Callable[[Posterior], Tensor]]) -> Tensor:
        """Of the classes drawn, and last of the cotangents that `own` makes: `[n, K]`."""
        at, extra = partial.open, len(own)
        found = drawn.factors.new_zeros(len(at), drawn.factors.shape[1] + extra)
        for group, width in _groups(drawn, start):
            filled, most = width, len(group)
            if passes.replays.on:
                filled, most = _size(width, whole.p.shape[1]), _size(most, len(batch))
            size, _ = passes.chunks.sizes(plan, most, filled + extra)
            for rows in group.split(size):
                part = Posterior(*(values[at[rows]] for values in whole))
                cotangents = class_cotangents(part, drawn.classes[rows, :width])
                cotangents = cotangents * (drawn.factors[rows, :width, None] > 0)
                cotangents = pad(cotangents, (0, 0, 0, filled - width))
                cotangents = torch.cat([cotangents, *(make(part)[:, None] for make in own)], 1)
                cotangents, scales = unit_sized(cotangents, 2)
                more = _size(len(rows), size) - len(rows) if passes.replays.on else 0
                samples = torch.cat([at[rows], at[rows[:1]].expand(more)])
                cotangents = pad(cotangents, (0, 0, 0, 0, 0, more))
                sq_norms = passes.sq_norms(plan, batch.take(samples), cotangents, "rounds")
                each = total_norms(sq_norms[: len(rows)], reduction) * scales
                found[rows, :width] = each[:, :width].double()
                found[rows, found.shape[1] - extra :] = each[:, filled:].double()
        return found

    while len(partial.open):
        drawn, own = partial.draw(), objective.own if partial.round == 0 else {}
        pulled += sum(drawn.numbers) + len(own) * len(partial.open)
        each = norms(drawn, list(own.values()))
        classes = drawn.classes.shape[1]
        for scheme, column in zip(own, each[:, classes:].T, strict=True):
            scores[scheme] = column.pow(TABLE[scheme].power)
        partial.add(drawn, each[:, :classes])
    scores |= partial.scores
    dtype = whole.p.dtype
    scored = Scored(
        {scheme: scores[scheme].to(dtype) for scheme in objective.schemes},
        {scheme: errors.to(dtype) for scheme, errors in partial.errors.items()},
        logits,
    )
    return scored, pulled


def _size(count: int, most: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, ... and `most` that `count` things fit into."""
    power: int = 1 << (count - 1).bit_length()
    fitting = 3 * power // 4 if 4 * count <= 3 * power else power
    return max(count, min(fitting, most))


def _start(plan: Plan, device: torch.device) -> float:
    """What one more group costs, in pull-backs of one sample."""
    shapes = [(use.rule.shape, use.rule.groups) for use in plan.uses if use.rule is not None]
    flops = sum(2 * s.positions * s.inputs * s.outputs * groups for s, groups in shapes)
    return len(shapes) * _START.get(device.type, _START_GPU) / max(1, flops)


def _groups(drawn: Draw, start: float) -> Iterator[tuple[Tensor, int]]:
    """Samples to run together, and the most that one of them needs.

    A group goes on for as long as what it pulls back in vain costs less than to start another.
    """
    order = drawn.counts.sort(descending=True, stable=True).indices
    first, place, width, vain = 0, 0, 0, 0
    for count, same in itertools.groupby(sorted(drawn.numbers, reverse=True)):
        size = len([*same])
        vain += (width - count) * size
        if place == first or vain > start:
            if place > first:
                yield order[first:place], width
            first, width, vain = place, count, 0
        place += size
    yield order[first:], width
