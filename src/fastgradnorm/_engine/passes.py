"""Vmapped passes: over samples, of vjp over taps, of vmap over cotangents.

For one sample, inside `vmap`: a forward pass with taps behind its operations, the cotangents for
its logits, and one pull-back of all of them under a second `vmap`. A pull-back gives the squared
gradient norms of parameters as the "gradients" of the taps' extra inputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from fastgradnorm_kernels.exact_products import Kept, keeping
from torch import Tensor
from torch.func import vmap

from fastgradnorm._engine.chunks import Chunks
from fastgradnorm._engine.head_input import HeadInput
from fastgradnorm._engine.plan import Plan
from fastgradnorm._engine.replay import Replays
from fastgradnorm._engine.tapped import TappedPass
from fastgradnorm._engine.timing import Clock
from fastgradnorm._engine.together import Head, Seen, head_together
from fastgradnorm._engine.traces import Traces
from fastgradnorm._engine.unread import logits_together
from fastgradnorm._errors import NOT_THE_MODELS
from fastgradnorm._model import (
    Batch,
    Branches,
    Passage,
    Pieces,
    PlanChangedError,
    Settings,
    Subject,
    Watch,
    check_repeatable,
)
from fastgradnorm._process import is_out_of_memory


class Passes:
    """Passes over batches of one model.

    Args:
        subject: The model.
        settings: How it is run at first.
        chunks: How many cotangents are pulled back at a time.
        clock: Measures the rules, if given.

    Attributes:
        settings: How the model is run. What a pass finds out about it changes them for good.
        replays: Runs the passes, on a GPU from captured ones.
        traces: Runs them on the CPU, some from traced ones.
        branched: Whether the model has read values of its samples to decide what to do.
        alike: Whether logits `[n, ..., C]` of two passes differ by rounding alone.
    """

    def __init__(
        self, subject: Subject, settings: Settings, chunks: Chunks, clock: Clock | None = None
    ) -> None:
        self.subject, self.settings, self.chunks, self.clock = subject, settings, chunks, clock
        self.replays, self.traces = Replays(subject.device), Traces(lambda: subject.blamed)
        self.traces.bounded = subject.options.max_memory is not None
        self._latest = Passage(settings)
        self._kept = Kept(subject.values([*subject.parameters]).values())
        self._seen: dict[int, Seen] = {}  # by the `id` of plans, which stay as long
        self.branched = False
        self.alike: Callable[[Tensor, Tensor], bool] = torch.equal

    def clear(self) -> None:
        """Lets go of all captured and traced passes."""
        self.replays.clear()
        self.traces.clear()

    def told(self) -> dict[str, Any]:
        """How many passes were replayed, from which, and why others were not."""
        if self.replays.on:
            known = {"replayed": self.replays.replayed, "reason": self.replays.reason}
            return {"from": "captured", **known}
        found = self.traces.told()
        if self.subject.device.type != "cpu":
            found["reason"] = f"passes on {self.subject.device} are run as they are"
        elif self.replays.reason is not None and not found["passes"]:
            found["reason"] = self.replays.reason
        return {"from": "traced", **found}

    def run(
        self,
        name: str | None,
        per_sample: Callable[..., Any],
        batch: Batch,
        *args: Tensor | None,
        plan: Plan | None = None,
    ) -> Any:
        """`per_sample(passage, leaves, *args)` for each sample of a batch, under vmap.

        Args:
            name: Equal for passes that do the same with equal settings and shapes. None for one
                that is not to be captured.
            per_sample: The pass of one sample; it returns a tree of tensors.
            batch: The samples.
            args: More tensors `[N, ...]`, or None.
            plan: How the model is expected to be used, if gradients are taken.

        Raises:
            UnsupportedModelError: If the model draws random numbers that matter.
            PlanChangedError: If it puts hooks on gradients and did not when it was planned.
        """
        count = len(args)

        def passed(branches: Branches, *tensors: Tensor | None) -> Any:
            self._latest = passage = Passage(self.settings, branches)

            def one(*tensors: Any) -> Any:
                found = per_sample(passage, tensors[count:], *tensors[:count])
                if plan is not None and passage.hooked and not plan.hooked:
                    raise PlanChangedError  # what hooks do, and whether they clip, is not known yet
                return found

            in_dims = tuple(None if tensor is None else 0 for tensor in tensors)
            with keeping(self._kept):
                return vmap(one, in_dims, randomness=self.subject.randomness)(*tensors)

        found = self._laid_out(lambda: self._again(name, passed, batch, *args))
        self.branched = self.branched or bool(self._latest.branches.noted)
        self._check_repeatable(batch)
        return found

    def of_tensors(self, name: str, function: Callable[..., Any], *args: Tensor) -> Any:
        """`function(*args)` of tensors `[N, ...]`, which makes nothing but tensors of them.

        Where passes are traced so is that, by its name.
        """
        if self.replays.on or self.clock is not None or self.subject.device.type != "cpu":
            return function(*args)
        return self.traces.run((name, self.settings), lambda _, *tensors: function(*tensors), args)

    def _again(
        self, name: str | None, run: Callable[..., Any], batch: Batch, *args: Tensor | None
    ) -> Any:
        """`run(branches, *args, *leaves)`, from an earlier pass of that name where that can be."""
        key = None
        if name is not None and self.clock is None:
            key = self.replays.key(batch.kind, name, self.settings)
        given = *args, *batch.leaves
        if self.replays.on or key is None or self.subject.device.type != "cpu":
            self._kept.renew()
            return self.replays.run(key, run, given)
        found = self.traces.run(key, run, given)
        self.subject.blamed = False  # whatever an attempt to trace it has raised
        return found

    def _check_repeatable(self, batch: Batch) -> None:
        if self.subject.drew and not self.subject.draws_idly:
            check_repeatable(self.subject, batch.take(slice(0, 1)))

    def each(
        self,
        name: str | None,
        plan: Plan,
        batch: Batch,
        function: Callable[..., Any],
        *args: Tensor | None,
    ) -> Any:
        """`function(run, *args)` of the `TappedPass` of each sample; otherwise as `run`."""

        def per_sample(passage: Passage, leaves: Sequence[Tensor], *args: Tensor | None) -> Any:
            parts = self.subject, plan, batch, leaves, passage, self.chunks, self.clock
            return function(TappedPass(*parts), *args)

        return self.run(None if name is None else f"{name} {id(plan)}", per_sample, batch, *args)

    def sq_norms(
        self, plan: Plan, batch: Batch, cotangents: Tensor, name: str | None = None
    ) -> Tensor:
        """Squared norms `[N, K, P]`, by `plan.names`, of cotangents `[N, K, *logits]`.

        Passes with a `name` are captured, for each K and as many samples as there are.
        """
        pulled = self.each(name, plan, batch, TappedPass.pull, cotangents)
        return cast(Tensor, pulled)

    def logits(self, batch: Batch, name: str | None = "logits") -> Tensor:
        """Logits `[N, *positions, C]`: a forward pass without gradients; `name` as in `run`."""

        def per_sample(passage: Passage, leaves: Sequence[Tensor]) -> Tensor:
            view, stand_ins = self.subject.view({})
            with Watch(Pieces({}), stand_ins, passage, leaves):
                return self.subject.tempered(view, batch, [leaf[None].clone() for leaf in leaves])

        with torch.no_grad():
            return cast(Tensor, self.run(name, per_sample, batch))

    def head(self, plan: Plan, batch: Batch) -> tuple[Tensor, ...]:
        """Logits `[N, C]` and features `[N, D]` of the last layer: a forward pass alone.

        What the layer made comes third, unless the logits are that tensor itself, or are known to
        be the same.
        """
        subject = self.subject
        if self.settings.together and not self.replays.on:
            found = self._together(plan, batch)
            if found is not None:
                return found
            self.settings = replace(self.settings, together=False)

        def per_sample(passage: Passage, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
            tracked = {k: v.detach() for k, v in subject.values(plan.names).items()}
            view, stand_ins = subject.view(tracked)
            mode = HeadInput(Pieces(tracked), stand_ins, passage, leaves, plan.harmless)
            # No tensor has a gradient here; what the model keeps out of its graph is still seen.
            with torch.enable_grad(), mode:
                logits = subject.run(view, batch, [leaf[None].clone() for leaf in leaves])
            if mode.given is None or mode.output is None:
                raise PlanChangedError
            found = logits, mode.given.reshape(-1)
            return found if mode.is_output(logits) else (*found, mode.output.reshape(-1))

        with torch.no_grad():
            found = self.run(f"head {id(plan)}", per_sample, batch)
        return cast(tuple[Tensor, ...], found)

    def _together(self, plan: Plan, batch: Batch) -> Head | None:
        (shape,) = (use.rule.shape for use in plan.uses if use.rule is not None)
        width = shape.inputs, shape.outputs

        seen = self._seen.setdefault(id(plan), Seen(plan.harmless))

        def run(_: Branches, *leaves: Tensor) -> Head | None:
            passage = Passage(self.settings)
            return head_together(self.subject, batch, leaves, plan.names, width, passage, seen)

        found = self._again(f"together {id(plan)}", run, batch)
        self._check_repeatable(batch)
        if found is None or not self._agrees(seen, batch, Head(*found)):
            return None
        return Head(*found)

    def _agrees(self, seen: Seen, batch: Batch, found: Head) -> bool:
        """Whether two samples are as if alone, which is looked at once where a plan is new.

        A model may do something else with longer samples, with more of them, or as it is told.
        """
        if len(batch) <= max(1, seen.compared.get(batch.kind, 1)):
            return True
        ends = slice(0, len(batch), len(batch) - 1)
        alone = self.logits(batch.take(ends), None) * self.subject.options.temperature
        seen.compared[batch.kind] = len(batch)
        return self.alike(found.logits[ends], alone)

    def rows(self, batch: Batch) -> Tensor | None:
        """Logits `[N, ..., C]` by one plain pass of all samples; None if there is no such thing."""
        drew = self.subject.drew
        try:
            return logits_together(self.subject, batch, Passage(self.settings))
        finally:
            self.subject.drew = drew  # what is seen here is none of a pool's

    def _laid_out(self, run: Callable[[], Any]) -> Any:
        """What `run` gives; for models that need it, with all tensors contiguous."""
        try:
            return run()
        except RuntimeError as error:
            fixed = not self.settings.channels_last or not self._latest.laid_out
            if fixed or is_out_of_memory(error) or isinstance(error, NOT_THE_MODELS):
                raise
        before, self.settings = self.settings, replace(self.settings, channels_last=False)
        try:
            return run()
        except RuntimeError:
            self.settings = before  # that was not it
            raise
