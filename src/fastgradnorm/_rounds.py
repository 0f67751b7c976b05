"""Rounds of pull-backs: each sample gets as many as its own standard error asks for.

A forward pass without gradients gives the logits, and these the first classes. Every round runs the
samples that want more of them anew, in groups of about as many pull-backs: a second forward pass
costs a fraction of one pull-back. What a group pulls back beyond a sample's own wish are zeros, so
that a score does not depend on its group.
"""

from collections.abc import Iterator

import torch
from fastgradnorm_kernels import accumulation_dtype
from torch import Tensor

from fastgradnorm._batches import Batch
from fastgradnorm._draws import Draw
from fastgradnorm._naive import total_norms
from fastgradnorm._objectives import (
    Objective,
    class_cotangents,
    entropy_cotangent,
    posterior,
    unit_sized,
)
from fastgradnorm._partial import Partial
from fastgradnorm._passes import Passes, Scored
from fastgradnorm._planning import Plan

# What one more group costs, in pull-backs of one sample: the start of its operations.
_START = 6


def score_in_rounds(passes: Passes, plan: Plan, objective: Objective, batch: Batch) -> Scored:
    """Scores and standard errors from as many classes as these need."""
    logits = passes.logits(batch)
    whole = posterior(logits.to(accumulation_dtype(logits.dtype)))
    partial = Partial(whole, objective.powers, objective.rtol, objective.seed)
    entropy = "entropy" in objective.schemes
    scores = {}

    def norms(drawn: Draw, extra: bool) -> Tensor:
        """Of the classes drawn, and last, where asked for, of the entropy: `[n, K]`."""
        at, counts = partial.open, (drawn.factors > 0).sum(-1)
        found = drawn.factors.new_zeros(len(at), drawn.factors.shape[1] + extra)
        for group, width in _groups(counts):
            size, _ = plan.chunks(len(group), width + extra)
            for rows in group.split(size):
                part = type(whole)(*(values[at[rows]] for values in whole))
                cotangents = class_cotangents(part, drawn.classes[rows, :width])
                cotangents = cotangents * (drawn.factors[rows, :width, None] > 0)
                if extra:
                    cotangents = torch.cat([cotangents, entropy_cotangent(part)[:, None]], 1)
                cotangents, scales = unit_sized(cotangents, 2)
                sq_norms = passes.sq_norms(plan, batch.take(at[rows]), cotangents)
                each = total_norms(sq_norms, passes.options.reduction) * scales
                found[rows, :width] = each[:, :width].double()
                found[rows, found.shape[1] - extra :] = each[:, width:].double()
        passes.pulled += int(counts.sum()) + extra * len(at)
        return found

    while len(partial.open):
        drawn, extra = partial.draw(), entropy and partial.round == 0
        each = norms(drawn, extra)
        if extra:
            scores["entropy"] = each[:, -1]
        partial.add(drawn, each[:, : drawn.classes.shape[1]])
    scores |= partial.scores
    dtype = whole.p.dtype
    return Scored(
        {scheme: scores[scheme].to(dtype) for scheme in objective.schemes},
        {scheme: errors.to(dtype) for scheme, errors in partial.errors.items()},
    )


def _groups(counts: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Samples to run together, and the most that one of them needs."""
    group: list[Tensor] = []
    width = 0
    for count in counts.unique().flip(0).tolist():
        same = (counts == count).nonzero()[:, 0]
        if group and (width - count) * len(same) > _START:
            yield torch.cat(group), width
            group = []
        width = width if group else count
        group.append(same)
    if group:
        yield torch.cat(group), width
