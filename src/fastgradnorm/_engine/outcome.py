"""What is made of passes over a batch: scores from norms, or something else for each sample."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from fastgradnorm_kernels import accumulation_dtype, head_scores
from torch import Tensor

from fastgradnorm._engine.passes import Passes
from fastgradnorm._engine.plain import plain_scores
from fastgradnorm._engine.plan import Plan, make_plan
from fastgradnorm._engine.rtol import score_in_rounds
from fastgradnorm._engine.tapped import TappedPass
from fastgradnorm._model.batches import Batch
from fastgradnorm._model.subject import Subject
from fastgradnorm._model.watch import PlanChangedError
from fastgradnorm._options import Options
from fastgradnorm._schemes.objective import Objective, Scored, make_objective, total_norms


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


class Norms:
    """Scores of gradient norms, of every scheme asked for."""

    def __init__(self, options: Options) -> None:
        self.options, self.pulled = options, 0
        self.slow: str | None = (
            "This model cannot run under vmap, so that samples are scored one by one with plain "
            "autograd: exact, and slow."
        )
        self._objectives: dict[tuple[int, ...], Objective] = {}

    def count(self, plan: Plan) -> int:
        """As in `Outcome`."""
        objective = self._objective(plan)
        if self.has_closed_form(plan):
            return 0
        if objective.can_draw(plan.logits_shape):
            return 1  # a round groups its samples by how many they need, and cuts the groups
        return objective.count(plan.logits_shape)

    def planned(self, plan: Plan) -> Plan:
        """As in `Outcome`."""
        return plan

    def make(self, passes: Passes, plan: Plan, batch: Batch) -> Scored:
        """Scores and standard errors."""
        objective = self._objective(plan)
        if self.has_closed_form(plan):
            logits, features = self.head(plan, passes, batch)
            return Scored(self.of_head(plan, passes, logits, features), {}, logits)
        if objective.can_draw(plan.logits_shape):
            scored, pulled = score_in_rounds(passes, plan, objective, batch, self.options.reduction)
            self.pulled += pulled
            return scored
        return self._exact(passes, plan, objective, batch)

    def alone(
        self, subject: Subject, sample: Batch, error: Exception | None, run: Callable[[], Scored]
    ) -> Scored:
        """By plain autograd: exact, and slow."""
        last = self.options.params == "last_layer"
        names = make_plan(subject, sample).names if last else list(subject.chosen)
        return plain_scores(subject, sample, names, self.options)

    def nothing(self, dtype: torch.dtype) -> Scored:
        """As in `Outcome`."""
        return Scored(dict.fromkeys(self.options.schemes, torch.empty(0, dtype=dtype)), {})

    def _exact(self, passes: Passes, plan: Plan, objective: Objective, batch: Batch) -> Scored:
        def of_sample(run: TappedPass, valid: Tensor | None) -> tuple[Any, ...]:
            pull_backs = objective.pull_backs(run.logits, valid)
            norms = total_norms(run.pull(pull_backs.cotangents), self.options.reduction)
            found = pull_backs.scores(norms)
            errors = {k: error for k, (_, error) in found.items() if error is not None}
            z = [run.logits.detach()] if run.logits.dim() == 1 else []
            return {k: score for k, (score, _) in found.items()}, errors, z

        valid = batch.valid(plan.logits_shape)
        scores, errors, logits = passes.each("scores", plan, batch, of_sample, valid)
        return Scored(scores, errors, *logits)

    def has_closed_form(self, plan: Plan) -> bool:
        """Whether a forward pass alone gives the scores."""
        objective = self._objective(plan)
        single = objective.likelihood == "categorical" or plan.logits_shape == (1,)
        return plan.exact_head and single and objective.has_closed_form

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
    return logits.shape == made.shape and torch.allclose(logits, made, equal_nan=True)
