"""Scores of a batch: planned, passed over in chunks, split where its samples part ways."""

import contextlib
import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from fastgradnorm._engine.chunks import Chunks
from fastgradnorm._engine.lengths import Key, between
from fastgradnorm._engine.outcome import Norms, Outcome
from fastgradnorm._engine.passes import Passes
from fastgradnorm._engine.plan import Plan, make_plan
from fastgradnorm._engine.timing import Clock
from fastgradnorm._errors import (
    NOT_THE_MODELS,
    CoverageError,
    SlowPathWarning,
)
from fastgradnorm._model import (
    Batch,
    DivergentControlFlowError,
    PlanChangedError,
    Settings,
    Subject,
)
from fastgradnorm._options import Options
from fastgradnorm._process import collection_paused, heap, is_out_of_memory
from fastgradnorm._schemes import Scored

# Cotangents of a sample from which on it pays to prepare for each.
_SEVERAL = 4
# What transforms raise for what they cannot run; where the model means it, its loop raises it too.
_OF_TRANSFORMS = (RuntimeError, NotImplementedError, IndexError)


class ClippedGradientError(Exception):
    """Gradients of the model do not grow with what is pulled back."""

    def __init__(self) -> None:
        super().__init__(
            "a hook or a function of the model's own changes gradients otherwise than in "
            "proportion, so that each is pulled back apart"
        )


class Engine:
    """Makes what is asked for of batches with one model, as it is when the engine is made.

    Args:
        subject: The model.
        options: All that is asked for.
        outcome: What is made of each sample; by default scores.
        clock: Measures the rules, if given.
        chunks: How batches are cut, if that is known already.

    Attributes:
        also: What makes the scores that take a pass of their own, if there are some.
        loop_reason: Why samples are run one by one, if they are.
        singles: Whether the caller's batches are of one sample each, put together here.
        noticed: Is told of each plan that is made, with the samples it was made for.
    """

    def __init__(
        self,
        subject: Subject,
        options: Options,
        outcome: Outcome | None = None,
        clock: Clock | None = None,
        chunks: Chunks | None = None,
    ) -> None:
        self.subject, self.options = subject, options
        self.outcome: Outcome = Norms(options) if outcome is None else outcome
        self.chunks = chunks or Chunks(options.max_memory, subject.device)
        self.also: Engine | None = None
        self.passes = Passes(subject, Settings(options.backend), self.chunks, clock)
        self.loop_reason: str | None = None
        self.singles = False
        self.noticed: Callable[[Plan, Batch], None] | None = None
        self._spread_tried = False
        self._plans: dict[Key, list[Plan]] = {}
        self._made: dict[Key, Plan] = {}  # the first of each shape that was planned for itself

    def plan(self, batch: Batch, *, one_length: bool = True) -> Plan:
        """The plan for samples of this shape; made on the first of them.

        Args:
            batch: The samples.
            one_length: False where plans for shorter and longer samples may tell what it is.
        """
        return self.plans(batch, one_length=one_length)[0]

    def plans(self, batch: Batch, *, one_length: bool = True) -> list[Plan]:
        """Plans for samples of this shape: one for each way of using the parameters seen so far."""
        key = tuple((tuple(leaf.shape[1:]), leaf.dtype) for leaf in batch.leaves)
        if key not in self._plans:
            plan = None if one_length else between(self._made, key)
            if plan is None:
                plan = self._made[key] = self._planned(batch)
            self._plans[key] = [plan]
        return self._plans[key]

    def _planned(self, batch: Batch) -> Plan:
        with self.subject.gradients_kept():
            plan = make_plan(self.subject, batch)
        if self.noticed is not None:
            self.noticed(plan, batch)
        return plan

    @property
    def counted(self) -> tuple[str, ...]:
        """Names of the parameters counted so far, over all plans."""
        plans = [plan for known in self._plans.values() for plan in known]
        names = dict.fromkeys(name for plan in plans for name in plan.names)
        return tuple(dict.fromkeys([*names, *(self.also.counted if self.also else ())]))

    def score(self, batch: Batch) -> Scored:
        """What is asked for of all samples, in order."""
        plan = self.plan(batch)
        planned, count = self.outcome.planned(plan), self.outcome.count(plan)
        self.passes.settings = replace(self.passes.settings, several=count >= _SEVERAL)
        with heap.kept(self.options.max_memory is None), self.subject.gradients_kept():
            return Scored.join(self.chunks.run(self._split, batch, planned, count))

    def aside(self, batch: Batch) -> Scored:
        """What is asked for of samples that are only looked at: not of the pool, or once more."""
        outcome = self.outcome.aside()
        return (self if outcome is self.outcome else self.making(outcome)).score(batch)

    def allow_together(self, agreed: bool) -> None:
        """Whether a plain pass of many samples may stand for one of each: where they do not mix.

        Args:
            agreed: Whether samples were found to have the same logits in company as alone.
        """
        possible = agreed and self.loop_reason is None and not self.passes.branched
        self.passes.settings = replace(self.passes.settings, together=possible)

    def expect(self, samples: int | None) -> None:
        """How many samples are still to come; None: unknown. Short work is not worth preparing."""
        self.passes.traces.coming = samples
        if self.also is not None:
            self.also.expect(samples)

    def told(self) -> dict[str, Any]:
        """How passes were replayed: on a GPU from captured ones, on the CPU from traced ones."""
        found = self.passes.told()
        if self.loop_reason is not None:
            found["reason"] = "samples are scored one by one"
        if self.also is not None:
            found["also"] = self.also.told()
        return found

    def making(self, outcome: Outcome) -> "Engine":
        """One that makes something else of the same passes, by the same plans."""
        other = copy.copy(self)
        other.outcome = outcome
        return other

    def _split(self, batch: Batch) -> Scored:
        """All at once; samples that take different branches are split by branch first."""
        self.subject.blamed = False
        try:
            return self._run(batch)
        except DivergentControlFlowError as branch:
            self.passes.branched = True
            values, group = branch.values.unique(dim=0, return_inverse=True)
        except _OF_TRANSFORMS as error:
            if is_out_of_memory(error):
                self.passes.clear()
                raise
            if isinstance(error, NOT_THE_MODELS):
                raise
            if not self.subject.blamed:
                raise  # of the engine's own: there is no other way around that
            return self._loop(batch, error) if self._spread_tried else self._spread(batch, error)
        except ClippedGradientError as error:
            return self._loop(batch, error)
        alone = values.is_floating_point() and 2 < len(values) == len(batch)
        if alone or len(group) < len(batch):  # the latter: rounding decides the branch
            if self.singles:
                rows = [batch.take(slice(i, i + 1)) for i in range(len(batch))]
                return Scored.join([self._split(row) for row in rows])
            return self._loop(batch, None)
        parts = [(group == value).nonzero()[:, 0] for value in range(len(values))]
        order = torch.cat(parts).argsort()
        return Scored.join([self._split(batch.take(index)) for index in parts]).take(order)

    def _spread(self, batch: Batch, error: Exception) -> Scored:
        """As a model that writes values of its samples into a tensor they share; else one by one.

        Whether it is one is tried, once: vmap's errors do not say.
        """
        self._spread_tried, before = True, self.passes.settings
        self.passes.settings = replace(before, spread=True)
        try:
            return self._run(batch)
        except DivergentControlFlowError:
            return self._split(batch)
        except ClippedGradientError as clipped:
            return self._loop(batch, clipped)
        except _OF_TRANSFORMS as again:
            if is_out_of_memory(again) or isinstance(again, NOT_THE_MODELS):
                raise
        self.passes.settings = before
        return self._loop(batch, error)

    def _run(self, batch: Batch) -> Scored:
        """Samples that take the same branches, by the first plan that fits them."""
        known = self.plans(batch)
        if self.subject.clips:
            raise ClippedGradientError
        for plan in known:
            with contextlib.suppress(PlanChangedError), collection_paused():
                return self.outcome.make(self.passes, plan, batch)
        plan = self._planned(batch)
        known.append(plan)
        if self.subject.clips:
            raise ClippedGradientError
        try:
            return self.outcome.make(self.passes, plan, batch)
        except PlanChangedError as error:
            raise CoverageError(
                "the model uses its parameters differently each time it runs, so that their "
                "gradients cannot be accounted for."
            ) from error

    def _loop(self, batch: Batch, error: Exception | None) -> Scored:
        """Sample by sample."""
        in_loss = error is not None and self.subject.in_loss
        samples = [batch.take(slice(i, i + 1)) for i in range(len(batch))]
        found = [
            self.outcome.alone(self.subject, one, error, partial(self._split, one))
            for one in samples
        ]
        if self.loop_reason is None:
            self.loop_reason = "each sample takes a branch of its own"
            if error is not None:
                first = next(iter(str(error).strip().splitlines()), "")
                self.loop_reason = f"{type(error).__name__}: {first}"
                hooked = self.subject.hooked()
                if hooked is not None:
                    self.loop_reason = (
                        f"{hooked} has a backward hook. Remove it while scoring, or register one "
                        f"on the module's output, which is fast. PyTorch says: {self.loop_reason}"
                    )
            if self.outcome.slow is not None:
                slow = self.outcome.slow
                who = slow.replace("This model", "`loss`", 1) if in_loss else slow
                message = f"{who} {self.loop_reason}"
                warnings.warn(message, SlowPathWarning, stacklevel=2)
        return Scored.join(found)
