"""Scores of a batch: vmap over samples of vjp over taps of vmap over cotangents.

For one sample, inside `vmap`: a forward pass with taps behind its operations, the objective's
cotangents for its logits, and one pull-back of all of them under a second `vmap`. A pull-back gives
the squared gradient norms of tapped parameters as the "gradients" of the taps, and the gradients of
the leftovers, which are squared and dropped.
"""

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from fastgradnorm_kernels import accumulation_dtype, head_scores
from torch import Tensor
from torch.func import vjp, vmap

from fastgradnorm._batches import Batch
from fastgradnorm._clock import Clock
from fastgradnorm._errors import CoverageError, SlowPathWarning, UnsupportedModelError
from fastgradnorm._naive import plain_scores, total_norms
from fastgradnorm._objectives import Objective, make_objective
from fastgradnorm._options import Options
from fastgradnorm._pieces import Pieces
from fastgradnorm._planning import Plan, make_plan
from fastgradnorm._rules import joint_sq_norm
from fastgradnorm._subject import Subject
from fastgradnorm._taps import HeadInput, Tapping, tap_parameter
from fastgradnorm._watch import DivergentControlFlowError, PlanChangedError

_Primals = tuple[dict[int, Tensor], dict[int, Tensor], dict[str, Tensor]]
_Vjp = tuple[Tensor, Callable[..., tuple[_Primals]], dict[int, tuple[Tensor, ...]]]


# What vmap says when a model writes values of its samples into a tensor they share.
_WRITES_SAMPLES = "has more elements than `self`"


@dataclass
class Scored:
    """Scores `[N]` by scheme, and standard errors of the sampled ones."""

    scores: dict[str, Tensor]
    errors: dict[str, Tensor]

    def take(self, index: Tensor) -> "Scored":
        """Those of the samples at `index`."""
        return Scored(
            {name: values[index] for name, values in self.scores.items()},
            {name: values[index] for name, values in self.errors.items()},
        )


class Engine:
    """Scores batches with one model, as it is when the engine is made.

    Args:
        subject: The model.
        options: All that is asked for.
    """

    def __init__(self, subject: Subject, options: Options) -> None:
        self.subject, self.options = subject, options
        self.clock: Clock | None = None
        self.loop_reason: str | None = None
        self._plans: dict[Any, list[Plan]] = {}
        self._spread = False  # the model writes values of its samples into new tensors

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
        objective = make_objective(self.options, plan.logits_shape)
        size = len(batch)
        if not self._uses_closed_form(plan, objective):
            size, _ = plan.chunks(size, objective.count(plan.logits_shape))
        return _join(
            [self._split(batch.take(slice(i, i + size))) for i in range(0, len(batch), size)]
        )

    def sq_norms(self, batch: Batch, cotangents: Tensor) -> Tensor:
        """Squared norms `[N, K, P]`, by `plan.names`, of pulled-back cotangents `[N, K, *z]`."""
        plan = self.plan(batch)

        def per_sample(cotangents: Tensor, *leaves: Tensor) -> Tensor:
            _, pull = self._pull(plan, batch, leaves)
            return pull(cotangents)

        return vmap(per_sample)(cotangents, *batch.leaves)

    def logits(self, batch: Batch) -> Tensor:
        """Logits `[N, *positions, C]` as the scoring passes compute them."""
        plan = self.plan(batch)
        return vmap(lambda *leaves: self._pull(plan, batch, leaves)[0])(*batch.leaves)

    def _split(self, batch: Batch) -> Scored:
        """Scores at once; samples that take different branches are split by branch first."""
        try:
            return self._run(batch)
        except DivergentControlFlowError as branch:
            values, group = branch.values.unique(dim=0, return_inverse=True)
        except (RuntimeError, NotImplementedError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            if _WRITES_SAMPLES in str(error) and not self._spread:
                self._spread = True
                return self._split(batch)
            return self._loop(batch, error)
        if values.is_floating_point() and 2 < len(values) == len(batch):
            return self._loop(batch, None)
        parts = [(group == value).nonzero()[:, 0] for value in range(len(values))]
        order = torch.cat(parts).argsort()
        return _join([self._split(batch.take(index)) for index in parts]).take(order)

    def _run(self, batch: Batch) -> Scored:
        """Scores samples that take the same branches, by the first plan that fits them."""
        known = self._known(batch)
        for plan in known:
            with contextlib.suppress(PlanChangedError):
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

    def _pass(self, plan: Plan) -> Callable[[Batch], Scored]:
        objective = make_objective(self.options, plan.logits_shape)
        if self._uses_closed_form(plan, objective):
            return self._head_pass(plan)
        return self._full_pass(plan, objective)

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

    def _full_pass(self, plan: Plan, objective: Objective) -> Callable[[Batch], Scored]:
        def run(batch: Batch) -> Scored:
            valid = batch.valid(plan.logits_shape)

            def per_sample(valid: Tensor | None, *leaves: Tensor) -> Any:
                logits, pull = self._pull(plan, batch, leaves)
                pull_backs = objective.pull_backs(logits, valid)
                found = pull_backs.scores(self._norms(pull(pull_backs.cotangents)))
                return (
                    {scheme: score for scheme, (score, _) in found.items()},
                    {scheme: error for scheme, (_, error) in found.items() if error is not None},
                )

            in_dims = (None if valid is None else 0, *(0 for _ in batch.leaves))
            scores, errors = vmap(per_sample, in_dims)(valid, *batch.leaves)
            return Scored(scores, errors)

        return run

    def _norms(self, sq_norms: Tensor) -> Tensor:
        return total_norms(sq_norms, self.options.reduction)

    def _pull(
        self, plan: Plan, batch: Batch, leaves: Sequence[Tensor]
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """One sample's logits, and the function from cotangents `[K, *logits]` to `[K, P]`."""
        subject, coverage, taps = self.subject, plan.coverage, plan.coverage.taps
        # Fresh objects each time: a mode knows them by `id`.
        tracked = {
            name: value.detach()
            for name, value in subject.values(plan.tracked).items()
            if name not in coverage.leftovers
        }
        direct = subject.values(coverage.leftovers)
        joints: dict[int, Any] = {}

        def forward(primals: _Primals) -> tuple[Tensor, dict[int, tuple[Tensor, ...]]]:
            norms, carriers, extras = primals
            tapped = {k: tap_parameter(k, v, extras[k], self.clock) for k, v in direct.items()}
            view, swaps = subject.view({**tracked, **tapped})
            mode = Tapping(
                Pieces(tracked),
                swaps,
                self.options.backend,
                taps,
                plan.harmless,
                [norms[i] for i in range(len(taps))],
                [carriers.get(i) for i in range(len(taps))],
                self.clock,
            )
            mode.spread = self._zero(leaves)
            with mode:
                inputs = [leaf[None].clone() for leaf in leaves]
                logits = subject.tempered(view, batch, inputs)
            joints.update({i: joint for i, (joint, _) in mode.joints.items()})
            return logits, {i: saved for i, (_, saved) in mode.joints.items()}

        logits, pull_back, saved = cast(_Vjp, vjp(forward, self._zeros(plan), has_aux=True))
        if len(joints) < sum(tap.joint is not None for tap in taps):
            raise PlanChangedError

        def shared(group: Sequence[int], carried: dict[int, Tensor]) -> Tensor:
            uses = [(joints[i], saved[i], carried[i]) for i in group]
            return joint_sq_norm(uses, self.options.backend)[None]

        def columns(cotangent: Tensor, last: bool) -> Tensor:
            with torch.no_grad():  # nobody wants the graph of the gradients
                ((norms, carried, extras),) = pull_back(cotangent, retain_graph=not last)
                joined = [
                    self._timed(name, shared)(group, carried)
                    for name, group in zip(coverage.joint_names, coverage.joints, strict=True)
                ]
            return torch.cat([*norms.values(), *joined, *extras.values()])

        def pull(cotangents: Tensor) -> Tensor:
            _, size = plan.chunks(1, len(cotangents))
            *first, last = cotangents.to(logits.dtype).split(size)
            rows = [vmap(partial(columns, last=False))(chunk) for chunk in first]
            rows.append(vmap(partial(columns, last=True))(last))
            return _by_parameter(torch.cat(rows), plan)

        return logits, pull

    def _zero(self, leaves: Sequence[Tensor]) -> Tensor | None:
        return torch.zeros_like(leaves[0].flatten()[0]) if self._spread else None

    def _timed(self, name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return function if self.clock is None else self.clock.timing([name], function)

    def _zeros(self, plan: Plan) -> "_Primals":
        """Extra inputs of taps: for norms, for output gradients of joint parameters, leftovers."""
        device, wide = self.subject.device, accumulation_dtype(self.subject.dtype)
        taps = list(enumerate(plan.coverage.taps))
        norms = {i: torch.zeros(len(tap.single), dtype=wide, device=device) for i, tap in taps}
        carriers = {
            i: torch.zeros(tap.output_shape, dtype=tap.output_dtype, device=device)
            for i, tap in taps
            if tap.joint is not None
        }
        extras = {k: torch.zeros(1, dtype=wide, device=device) for k in plan.coverage.leftovers}
        return norms, carriers, extras

    def _head_pass(self, plan: Plan) -> Callable[[Batch], Scored]:
        """Closed forms from logits and features: a forward pass without gradients."""
        subject = self.subject

        def run(batch: Batch) -> Scored:
            def per_sample(*leaves: Tensor) -> tuple[Tensor, ...]:
                tracked = {k: v.detach() for k, v in subject.values(plan.names).items()}
                view, swaps = subject.view(tracked)
                mode = HeadInput(Pieces(tracked), swaps, self.options.backend)
                mode.spread = self._zero(leaves)
                with mode:
                    logits = subject.tempered(view, batch, [leaf[None].clone() for leaf in leaves])
                if mode.features is None or mode.output is None:
                    raise PlanChangedError
                return logits, mode.features, mode.output.reshape(-1)

            with torch.no_grad():
                logits, features, made = vmap(per_sample)(*batch.leaves)
                made = made / self.options.temperature
                if logits.shape != made.shape or not torch.allclose(logits, made, equal_nan=True):
                    raise PlanChangedError  # these logits come from more than the last layer
                return Scored(self._closed_form(plan.coverage.taps[0].single, logits, features), {})

        return run

    def _closed_form(self, slots: Any, logits: Tensor, features: Tensor) -> dict[str, Tensor]:
        wide = accumulation_dtype(logits.dtype)
        q = features.to(wide).square().sum(-1)
        if "bias" in slots:
            q = (q.sqrt() + 1).square() if self.options.reduction == "per_tensor" else q + 1
        q = q / self.options.temperature**2
        if logits.shape[-1] == 1:  # one logit: two classes, whose head moves by √2 more
            logits, q = torch.cat([torch.zeros_like(logits), logits], -1), q / 2
        found = head_scores(logits, q, backend=self.options.backend)
        return {scheme: getattr(found, scheme) for scheme in self.options.schemes}


def _join(parts: Sequence[Scored]) -> Scored:
    """Scores of several batches as of one."""
    if len(parts) == 1:
        return parts[0]
    return Scored(
        {name: torch.cat([part.scores[name] for part in parts]) for name in parts[0].scores},
        {name: torch.cat([part.errors[name] for part in parts]) for name in parts[0].errors},
    )


def _by_parameter(columns: Tensor, plan: Plan) -> Tensor:
    """Squared norms `[K, P]`: pieces of one parameter have columns of their own, to be added."""
    names = plan.names
    if len(names) == len(plan.coverage.columns):
        return columns
    place = {name: i for i, name in enumerate(names)}
    index = [place[name] for name in plan.coverage.columns]
    total = columns.new_zeros(len(columns), len(names))
    return total.index_add(1, torch.tensor(index, device=columns.device), columns)
