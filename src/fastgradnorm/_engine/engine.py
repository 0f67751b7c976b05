"""Scores of a batch: planned, passed over in chunks, split where its samples part ways."""

import contextlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastgradnorm._engine.chunks import Chunks
from fastgradnorm._engine.passes import Passes
from fastgradnorm._engine.plain import plain_scores
from fastgradnorm._engine.plan import Plan, make_plan
from fastgradnorm._engine.rtol import score_in_rounds
from fastgradnorm._errors import (
    NOT_THE_MODELS,
    CoverageError,
    SlowPathWarning,
    UnsupportedModelError,
)
from fastgradnorm._model.batches import Batch
from fastgradnorm._model.subject import Subject
from fastgradnorm._model.watch import DivergentControlFlowError, PlanChangedError
from fastgradnorm._options import Options
from fastgradnorm._process import heap
from fastgradnorm._process.memory import is_out_of_memory
from fastgradnorm._process.states import collection_paused
from fastgradnorm._schemes.objective import Objective, Scored, make_objective

# What vmap says when a model writes values of its samples into a tensor they share.
_WRITES_SAMPLES = "has more elements than `self`"


class Engine:
    """Scores batches with one model, as it is when the engine is made.

    Args:
        subject: The model.
        options: All that is asked for.

    Attributes:
        loop_reason: Why samples are scored one by one, if they are.
        verified: For each verification so far, how many samples it looked at together.
    """

    def __init__(self, subject: Subject, options: Options) -> None:
        self.subject, self.options = subject, options
        self.chunks = Chunks(options.max_memory, subject.device)
        self.passes = Passes(subject, options, self.chunks)
        self.loop_reason: str | None = None
        self.verified: list[int] = []
        self._plans: dict[Any, list[Plan]] = {}
        self._objectives: dict[tuple[int, ...], Objective] = {}

    def plan(self, batch: Batch) -> Plan:
        """The plan for samples of this shape; made on the first of them."""
        return self._known(batch)[0]

    def _known(self, batch: Batch) -> list[Plan]:
        """Plans for samples of this shape: one for each way of using the parameters seen so far."""
        key = tuple((leaf.shape[1:], leaf.dtype) for leaf in batch.leaves)
        if key not in self._plans:
            self._plans[key] = [make_plan(self.subject, batch)]
        return self._plans[key]

    @property
    def counted(self) -> tuple[str, ...]:
        """Names of the parameters counted so far, over all plans."""
        plans = [plan for known in self._plans.values() for plan in known]
        return tuple(dict.fromkeys(name for plan in plans for name in plan.names))

    def score(self, batch: Batch) -> Scored:
        """Scores of all samples, in order."""
        plan = self.plan(batch)
        objective = self.objective(plan)
        count = objective.count(plan.logits_shape)
        if self._uses_closed_form(plan, objective):
            count = 0
        elif objective.can_draw(plan.logits_shape):
            count = 1  # a round groups its samples by how many they need, and cuts the groups
        with heap.kept(self.options.max_memory is None):
            return Scored.join(self.chunks.run(self._split, batch, plan, count))

    def sq_norms(self, batch: Batch, cotangents: Tensor) -> Tensor:
        """Squared norms `[N, K, P]`, by `plan.names`, of pulled-back cotangents `[N, K, *z]`."""
        return self.passes.sq_norms(self.plan(batch), batch, cotangents)

    def _split(self, batch: Batch) -> Scored:
        """Scores at once; samples that take different branches are split by branch first."""
        self.subject.blamed = False
        try:
            return self._run(batch)
        except DivergentControlFlowError as branch:
            values, group = branch.values.unique(dim=0, return_inverse=True)
        except (RuntimeError, NotImplementedError) as error:
            if is_out_of_memory(error) or isinstance(error, NOT_THE_MODELS):
                raise
            if not self.subject.blamed:
                raise  # of the engine's own: there is no other way around that
            if _WRITES_SAMPLES in str(error) and not self.passes.spread:
                self.passes.spread = True
                return self._split(batch)
            return self._loop(batch, error)
        alone = values.is_floating_point() and 2 < len(values) == len(batch)
        if alone or len(group) < len(batch):  # the latter: rounding decides the branch
            return self._loop(batch, None)
        parts = [(group == value).nonzero()[:, 0] for value in range(len(values))]
        order = torch.cat(parts).argsort()
        return Scored.join([self._split(batch.take(index)) for index in parts]).take(order)

    def _run(self, batch: Batch) -> Scored:
        """Scores samples that take the same branches, by the first plan that fits them."""
        known = self._known(batch)
        for plan in known:
            with contextlib.suppress(PlanChangedError), collection_paused():
                return self._pass(plan)(batch)
        plan = make_plan(self.subject, batch)
        known.append(plan)
        try:
            return self._pass(plan)(batch)
        except PlanChangedError as error:
            raise CoverageError(
                "the model uses its parameters differently each time it runs, so that their "
                "gradients cannot be accounted for."
            ) from error

    def objective(self, plan: Plan) -> Objective:
        """What is pulled back from logits of the plan's shape."""
        if plan.logits_shape not in self._objectives:
            made = make_objective(self.options, plan.logits_shape)
            self._objectives[plan.logits_shape] = made
        return self._objectives[plan.logits_shape]

    def _pass(self, plan: Plan) -> Callable[[Batch], Scored]:
        objective = self.objective(plan)
        if self._uses_closed_form(plan, objective):
            return self.passes.last_layer(plan)
        if objective.can_draw(plan.logits_shape):
            return partial(score_in_rounds, self.passes, plan, objective)
        return self.passes.full(plan, objective)

    def _uses_closed_form(self, plan: Plan, objective: Objective) -> bool:
        single = objective.likelihood == "categorical" or plan.logits_shape == (1,)
        return plan.exact_head and single

    def _loop(self, batch: Batch, error: Exception | None) -> Scored:
        """Exact and slow: plain autograd, sample by sample."""
        if error is not None and "random operation" in str(error):
            raise UnsupportedModelError(
                "the model draws random numbers in eval mode, so that a sample has no score of its "
                "own. Turn that off before scoring."
            ) from error
        if self.loop_reason is None:
            self.loop_reason = "each sample takes a branch of its own"
            if error is not None:
                first = str(error).strip().splitlines()[0]
                self.loop_reason = f"{type(error).__name__}: {first}"
            warnings.warn(
                "This model cannot run under vmap, so that samples are scored one by one with "
                f"plain autograd: exact, and slow. {self.loop_reason}",
                SlowPathWarning,
                stacklevel=2,
            )
        samples = [batch.take(slice(i, i + 1)) for i in range(len(batch))]
        last = self.options.params == "last_layer"
        names = list(self.subject.chosen)
        rows = [
            plain_scores(
                self.subject, s, make_plan(self.subject, s).names if last else names, self.options
            )
            for s in samples
        ]
        scores, errors = zip(*rows, strict=True)
        return Scored(
            {k: torch.stack([row[k] for row in scores]) for k in scores[0]},
            {k: torch.stack([row[k] for row in errors]) for k in errors[0]},
        )
