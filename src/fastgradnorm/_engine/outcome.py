"""What is made of passes over a batch: scores from norms, or something else for each sample."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from fastgradnorm_kernels import accumulation_dtype, head_scores
from torch import Tensor

from fastgradnorm._engine.passes import Passes
from fastgradnorm._engine.plain import by_group, plain_scores
from fastgradnorm._engine.plan import Plan, make_plan
from fastgradnorm._engine.rtol import score_in_rounds
from fastgradnorm._engine.tapped import TappedPass
from fastgradnorm._model import Batch, PlanChangedError, Subject
from fastgradnorm._options import Options
from fastgradnorm._schemes import (
    Groups,
    Objective,
    Scored,
    error_norm,
    make_objective,
    settled,
    total_norms,
)


class Outcome(Protocol):
    """What an engine makes of each sample.

    Attributes:
        pulled: How many cotangents were pulled back where that depends on the sample, in all.
        slow: What is told where samples are run one by one; None if that need not be told.
    """

    pulled: int
    slow: str | None

    def count(self, plan: Plan) -> int:
        """How many cotangents of a sample are there at a time; 0 for a forward pass alone."""
        ...

    def planned(self, plan: Plan) -> Plan:
        """The plan with the memory that this outcome takes."""
        ...

    def make(self, passes: Passes, plan: Plan, batch: Batch) -> Scored:
        """Of all samples of a batch, which use the model as the plan says."""
        ...

    def alone(
        self, subject: Subject, sample: Batch, error: Exception | None, run: Callable[[], Scored]
    ) -> Scored:
        """Of one sample, where several cannot be run at once.

        Args:
            subject: The model.
            sample: A batch of one.
            error: Why; None if each sample takes a branch of its own.
            run: Runs that one as a batch.
        """
        ...

    def nothing(self, dtype: torch.dtype) -> Scored:
        """Of no samples."""
        ...

    def aside(self) -> "Outcome":
        """What makes the same of samples that are only looked at: not of the pool, or once more."""
        ...

    def check(self, plan: Plan, batch: Batch) -> None:
        """Raises `ValueError` for labels that no loss can take, by their places in the batch."""
        ...


class Norms:
    """Scores of gradient norms, of every scheme asked for."""

    def __init__(self, options: Options) -> None:
        self.options, self.pulled = options, 0
        self.slow: str | None = (
            "This model cannot run under vmap, so that samples are scored one by one with plain "
            "autograd: exact, and slow."
        )
        self._objectives: dict[tuple[int, ...], Objective] = {}
        self._groups: Groups | None = None

    def count(self, plan: Plan) -> int:
        """As in `Outcome`."""
        objective = self._objective(plan)
        if objective.only_outputs or self.has_closed_form(plan):
            return 0
        if objective.can_draw(plan.logits_shape):
            return 1  # a round groups its samples by how many they need, and cuts the groups
        return objective.count(plan.logits_shape)

    def planned(self, plan: Plan) -> Plan:
        """As in `Outcome`."""
        return plan

    def aside(self) -> Outcome:
        """As in `Outcome`."""
        return self

    def make(self, passes: Passes, plan: Plan, batch: Batch) -> Scored:
        """Scores and standard errors."""
        objective = self._objective(plan)
        target = self._target(batch, plan, objective)
        if objective.only_outputs:
            return self._of_outputs(passes, plan, objective, batch, target)
        if self.has_closed_form(plan):
            logits, features = self.head(plan, passes, batch)
            name = f"scores of heads {id(plan)} {self.options.schemes}"
            scores = passes.of_tensors(
                name, lambda *given: self.of_head(plan, passes, *given), logits, features
            )
            return Scored(scores, {}, logits)
        if objective.can_draw(plan.logits_shape):
            drawn, known = objective.split()
            scored, pulled = score_in_rounds(passes, plan, drawn, batch, self.options.reduction)
            self.pulled += pulled
            if not known.labelled:
                return scored
            more = self._exact(passes, plan, known, batch, target)
            return Scored(scored.scores | more.scores, scored.errors, scored.logits)
        return self._exact(passes, plan, objective, batch, target)

    def alone(
        self, subject: Subject, sample: Batch, error: Exception | None, run: Callable[[], Scored]
    ) -> Scored:
        """By plain autograd: exact, and slow."""
        last = self.options.params == "last_layer"
        names = make_plan(subject, sample).names if last else list(subject.chosen)
        return plain_scores(subject, sample, names, self.options, self._grouped(subject))

    def nothing(self, dtype: torch.dtype) -> Scored:
        """As in `Outcome`."""
        return Scored(
            dict.fromkeys(self.options.schemes, torch.empty(0, dtype=dtype, device="cpu")), {}
        )

    def check(self, plan: Plan, batch: Batch) -> None:
        """As in `Outcome`."""
        self._target(batch, plan, self._objective(plan))

    def _exact(
        self,
        passes: Passes,
        plan: Plan,
        objective: Objective,
        batch: Batch,
        target: Tensor | None,
    ) -> Scored:
        groups = self._grouped(passes.subject)

        def of_sample(
            run: TappedPass, valid: Tensor | None, label: Tensor | None
        ) -> tuple[Any, ...]:
            z = [run.logits.detach()] if run.logits.dim() == 1 else []
            pull_backs = objective.pull_backs(run.logits, valid, label)
            if not len(pull_backs.cotangents):
                return dict(pull_backs.values), {}, z
            sq_norms = run.pull(pull_backs.cotangents)
            norms = total_norms(sq_norms, self.options.reduction)
            found = pull_backs.scores(norms)
            errors = {k: error for k, (_, error) in found.items() if error is not None}
            scores = {k: score for k, (score, _) in found.items()}
            if groups is not None:
                scores |= by_group(groups, pull_backs, sq_norms, plan.names)
            return scores, errors, z

        valid = batch.valid(plan.logits_shape)
        name = f"scores {objective.labelled} {len(objective.schemes)}"
        scores, errors, logits = passes.each(name, plan, batch, of_sample, valid, target)
        return Scored(scores, errors, *logits)

    def _of_outputs(
        self,
        passes: Passes,
        plan: Plan,
        objective: Objective,
        batch: Batch,
        target: Tensor | None,
    ) -> Scored:
        """EL2N: a forward pass alone."""
        logits = passes.logits(batch)
        z = logits.to(accumulation_dtype(logits.dtype))
        valid = batch.valid(plan.logits_shape)
        assert target is not None
        each = [
            error_norm(z[i], target[i], None if valid is None else valid[i], objective.likelihood)
            for i in range(len(z))
        ]
        return Scored({"el2n": torch.stack(each)}, {}, logits if logits.dim() == 2 else None)

    def _target(self, batch: Batch, plan: Plan, objective: Objective) -> Tensor | None:
        """Labels of the batch, as cotangents take them; None where none are needed."""
        if batch.target is None or not objective.needs_target:
            return None
        loss = objective.loss or "cross_entropy"
        given = plan.logits_shape, loss, objective.likelihood, self.options.class_dim
        return settled(batch.target, *given)

    def _grouped(self, subject: Subject) -> Groups | None:
        if self._groups is None and self.options.group_by is not None:
            self._groups = Groups(self.options.group_by, subject.chosen)
        return self._groups

    def has_closed_form(self, plan: Plan) -> bool:
        """Whether a forward pass alone gives the scores."""
        objective = self._objective(plan)
        single = objective.likelihood == "categorical" or plan.logits_shape == (1,)
        possible = plan.exact_head and single and objective.has_closed_form
        return possible and self.options.group_by is None

    def head(self, plan: Plan, passes: Passes, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits `[N, C]` and features `[N, D]` of a last layer that made the logits alone."""
        logits, features, *made = passes.head(plan, batch)
        with torch.no_grad():
            if made and not _agree(logits, made[0]):
                raise PlanChangedError  # these logits come from more than the last layer
            temperature = self.options.temperature
            logits = logits if temperature == 1 else logits / temperature
            return logits, features

    def of_head(
        self, plan: Plan, passes: Passes, logits: Tensor, features: Tensor
    ) -> dict[str, Tensor]:
        """Scores in closed form."""
        with torch.no_grad():
            temperature, backend = self.options.temperature, passes.settings.backend
            q = features.to(accumulation_dtype(logits.dtype)).square().sum(-1)
            if "bias" in plan.coverage.taps[0].single:
                q = (q.sqrt() + 1).square() if self.options.reduction == "per_tensor" else q + 1
            q = q / temperature**2
            if logits.shape[-1] == 1:  # one logit: two classes, whose head moves by √2 more
                logits, q = torch.cat([torch.zeros_like(logits), logits], -1), q / 2
            found = head_scores(logits, q, backend=backend)
        return {scheme: getattr(found, scheme) for scheme in self.options.schemes}

    def _objective(self, plan: Plan) -> Objective:
        shape = plan.logits_shape
        if shape not in self._objectives:
            self._objectives[shape] = make_objective(self.options, shape)
        return self._objectives[shape]


def _agree(logits: Tensor, made: Tensor) -> bool:
    made = made.to(logits.dtype)  # models in half precision return wider logits
    return logits.shape == made.shape and torch.allclose(logits, made, equal_nan=True)
