"""Plain autograd, one sample and one backward pass a cotangent at a time: the engine's referee."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fastgradnorm._errors import NOT_THE_MODELS
from fastgradnorm._model import Batch, Subject, Swapping, check_repeatable, loss_failed, own_states
from fastgradnorm._operations import numbers
from fastgradnorm._options import Options
from fastgradnorm._schemes import (
    Groups,
    Objective,
    PullBacks,
    Scored,
    column,
    make_objective,
    settled,
    total_norms,
)


class PlainPass:
    """One plain forward pass of one sample, to pull cotangents back from.

    Attributes:
        logits: `[*positions, C]`, with their graph.
    """

    def __init__(self, subject: Subject, sample: Batch, names: Sequence[str]) -> None:
        self.subject = subject
        values = subject.values(names)
        self.leaves = {name: v.detach().requires_grad_() for name, v in values.items()}
        view, stand_ins = subject.view(self.leaves)
        before = own_states(subject)
        try:
            with Swapping(stand_ins):
                given = [leaf.clone() for leaf in sample.leaves]
                self.logits = subject.tempered(view, sample, given)
        except (IndexError, RuntimeError) as error:
            if not subject.in_loss or isinstance(error, NOT_THE_MODELS):
                raise
            raise loss_failed(subject.options, error) from error
        check_repeatable(subject, sample, before=before)

    def gradients(self, cotangent: Tensor) -> list[Tensor | None]:
        """The pulled-back gradient of each parameter; None of those that take no part."""
        grads = torch.autograd.grad(
            self.logits,
            list(self.leaves.values()),
            cotangent.to(self.logits.dtype),
            retain_graph=True,
            allow_unused=True,
        )
        return [g.to_dense() if g is not None and g.is_sparse else g for g in grads]

    def sq_norms(self, cotangent: Tensor) -> Tensor:
        """Squared norm of the pulled-back gradient of each parameter, `[P]`."""
        dense = self.gradients(cotangent)
        zero = torch.zeros((), dtype=cotangent.dtype, device=cotangent.device)
        # A dot product adds in blocks; the norm of a large tensor loses a digit or two in float32.
        rows = [zero if g is None else numbers(g).to(zero.dtype) for g in dense]
        return torch.stack([row if row.dim() == 0 else row.dot(row) for row in rows])


def plain_scores(
    subject: Subject,
    sample: Batch,
    names: Sequence[str],
    options: Options,
    groups: Groups | None = None,
) -> Scored:
    """Scores and standard errors of one sample; and squares by group."""
    run = PlainPass(subject, sample, names)
    objective: Objective = make_objective(options, run.logits.shape)
    objective = replace(objective, as_it_is=subject.clips)
    valid, target = sample.valid(run.logits.shape), None
    if sample.target is not None and objective.needs_target:
        loss = objective.loss or "cross_entropy"
        given = run.logits.shape, loss, objective.likelihood, options.class_dim
        target = settled(sample.target, *given)[0]
    pull_backs = objective.pull_backs(run.logits, None if valid is None else valid[0], target)
    logits = run.logits.detach()[None] if run.logits.dim() == 1 else None
    if not len(pull_backs.cotangents):
        return Scored({k: value[None] for k, value in pull_backs.values.items()}, {}, logits)
    sq_norms = torch.stack([run.sq_norms(cotangent) for cotangent in pull_backs.cotangents])
    found = pull_backs.scores(total_norms(sq_norms, options.reduction))
    scores = {scheme: score[None] for scheme, (score, _) in found.items()}
    if groups is not None:
        squares = by_group(groups, pull_backs, sq_norms, names)
        scores |= {name: square[None] for name, square in squares.items()}
    errors = {scheme: error[None] for scheme, (_, error) in found.items() if error is not None}
    return Scored(scores, errors, logits)


def by_group(
    groups: Groups, pull_backs: PullBacks, sq_norms: Tensor, names: Sequence[str]
) -> dict[str, Tensor]:
    """Squares of each scheme and group, by the names of their columns."""
    squares = pull_backs.squares(groups.sums(sq_norms, names))
    return {
        column(scheme, i): value
        for scheme, values in squares.items()
        for i, value in enumerate(values.unbind())
    }
