"""One vmapped pass: vmap over samples of vjp over taps of vmap over cotangents.

For one sample, inside `vmap`: a forward pass with taps behind its operations, the objective's
cotangents for its logits, and one pull-back of all of them under a second `vmap`. A pull-back gives
the squared gradient norms of parameters as the "gradients" of the taps' extra inputs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from fastgradnorm_kernels import accumulation_dtype, head_scores
from torch import Tensor
from torch.func import vjp, vmap

from fastgradnorm._engine.chunks import Chunks
from fastgradnorm._engine.plan import Plan
from fastgradnorm._engine.taps import HeadInput, Tapping, tap_parameter
from fastgradnorm._engine.timing import Clock
from fastgradnorm._errors import NOT_THE_MODELS
from fastgradnorm._model.batches import Batch
from fastgradnorm._model.subject import Subject
from fastgradnorm._model.views import Pieces
from fastgradnorm._model.watch import PlanChangedError, Watch
from fastgradnorm._operations.rules import joint_sq_norm
from fastgradnorm._options import Options
from fastgradnorm._process.memory import is_out_of_memory
from fastgradnorm._schemes.objective import Objective, Scored, total_norms

_Primals = tuple[dict[int, Tensor], dict[int, Tensor], dict[str, Tensor]]
_Vjp = tuple[Tensor, Callable[..., tuple[_Primals]], dict[int, tuple[Tensor, ...]]]


class Passes:
    """Passes over samples that use their parameters as one plan says.

    Args:
        subject: The model.
        options: All that is asked for.
        chunks: How many cotangents are pulled back at a time.

    Attributes:
        clock: Measures the rules, if set.
        pulled: How many cotangents were pulled back where that depends on the sample, in all.
        spread: Whether new tensors get a value a sample, see `Watch`.
        channels_last: Whether convolutions may put the channels last in memory, see `Watch`.
    """

    def __init__(self, subject: Subject, options: Options, chunks: Chunks) -> None:
        self.subject, self.options, self.chunks = subject, options, chunks
        self.clock: Clock | None = None
        self.pulled = 0
        self.spread = False
        self.channels_last = True
        self._places: dict[tuple[str, ...], Tensor] = {}

    def full(self, plan: Plan, objective: Objective) -> Callable[[Batch], Scored]:
        """Scores from pulled-back cotangents."""

        def run(batch: Batch) -> Scored:
            valid = batch.valid(plan.logits_shape)

            def per_sample(valid: Tensor | None, *leaves: Tensor) -> Any:
                logits, pull = self.pull(plan, batch, leaves)
                pull_backs = objective.pull_backs(logits, valid)
                found = pull_backs.scores(
                    total_norms(pull(pull_backs.cotangents), self.options.reduction)
                )
                return (
                    {scheme: score for scheme, (score, _) in found.items()},
                    {scheme: error for scheme, (_, error) in found.items() if error is not None},
                )

            in_dims = (None if valid is None else 0, *(0 for _ in batch.leaves))
            scores, errors = self._vmap(per_sample, in_dims, valid, *batch.leaves)
            return Scored(scores, errors)

        return run

    def logits(self, batch: Batch) -> Tensor:
        """Logits `[N, *positions, C]`: a forward pass without gradients."""

        def per_sample(*leaves: Tensor) -> Tensor:
            view, stand_ins = self.subject.view({})
            mode = Watch(Pieces({}), stand_ins, self.options.backend)
            self._set(mode, leaves)
            with mode:
                return self.subject.tempered(view, batch, [leaf[None].clone() for leaf in leaves])

        with torch.no_grad():
            return cast(Tensor, self._vmap(per_sample, 0, *batch.leaves))

    def sq_norms(self, plan: Plan, batch: Batch, cotangents: Tensor) -> Tensor:
        """Squared norms `[N, K, P]`, by `plan.names`, of cotangents `[N, K, *logits]`."""

        def per_sample(cotangents: Tensor, *leaves: Tensor) -> Tensor:
            _, pull = self.pull(plan, batch, leaves)
            return pull(cotangents)

        return cast(Tensor, self._vmap(per_sample, 0, cotangents, *batch.leaves))

    def pull(
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
        reached: set[int | str] = set()

        def forward(primals: _Primals) -> tuple[Tensor, dict[int, tuple[Tensor, ...]]]:
            norms, carriers, extras = primals
            tap = partial(tap_parameter, reached=reached, clock=self.clock)
            tapped = {k: tap(k, v, extras[k]) for k, v in direct.items()}
            view, stand_ins = subject.view({**tracked, **tapped})
            mode = Tapping(
                Pieces(tracked),
                stand_ins,
                self.options.backend,
                taps,
                plan.harmless,
                [norms[i] for i in range(len(taps))],
                [carriers.get(i) for i in range(len(taps))],
                reached,
                self.clock,
            )
            self._set(mode, leaves)
            with mode:
                inputs = [leaf[None].clone() for leaf in leaves]
                logits = subject.tempered(view, batch, inputs)
            mode.check_all()
            joints.update({i: joint for i, (joint, _) in mode.joints.items()})
            return logits, {i: saved for i, (_, saved) in mode.joints.items()}

        logits, pull_back, saved = cast(_Vjp, vjp(forward, self._zeros(plan), has_aux=True))

        def shared(group: Sequence[int], carried: dict[int, Tensor]) -> Tensor:
            uses = [(joints[i], saved[i], carried[i]) for i in group]
            return joint_sq_norm(uses, self.options.backend)[None]

        def columns(cotangent: Tensor, last: bool) -> Tensor:
            with torch.no_grad():  # nobody wants the graph of the gradients
                with subject.responsible():
                    ((norms, carried, extras),) = pull_back(cotangent, retain_graph=not last)
                coverage.check_pulled(reached)
                joined = [
                    self._timed(name, shared)(group, carried)
                    for name, group in zip(coverage.joint_names, coverage.joints, strict=True)
                ]
            return torch.cat([*norms.values(), *joined, *extras.values()])

        def pull(cotangents: Tensor) -> Tensor:
            size = self.chunks.cotangents(plan, len(cotangents))
            *first, last = cotangents.to(logits.dtype).split(size)
            rows = [vmap(partial(columns, last=False))(chunk) for chunk in first]
            rows.append(vmap(partial(columns, last=True))(last))
            return self._by_parameter(torch.cat(rows), plan)

        return logits, pull

    def _by_parameter(self, columns: Tensor, plan: Plan) -> Tensor:
        """Squared norms `[K, P]`: pieces of one parameter have columns of their own, added here."""
        names, pieces = plan.names, plan.coverage.columns
        if len(names) == len(pieces):
            return columns
        if pieces not in self._places:  # once: the host would wait for the copy
            place = {name: i for i, name in enumerate(names)}
            index = [place[name] for name in pieces]
            self._places[pieces] = torch.tensor(index, device=columns.device)
        total = columns.new_zeros(len(columns), len(names))
        return total.index_add(1, self._places[pieces], columns)

    def _set(self, mode: Watch, leaves: Sequence[Tensor]) -> None:
        mode.channels_last = self.channels_last
        if self.spread:
            mode.spread = torch.zeros_like(leaves[0].flatten()[0])

    def _vmap(self, per_sample: Callable[..., Any], in_dims: Any, *args: Tensor | None) -> Any:
        """`vmap(per_sample, in_dims)(*args)`; for models that need it, all tensors contiguous."""
        try:
            return vmap(per_sample, in_dims)(*args)
        except RuntimeError as error:
            if not self.channels_last or is_out_of_memory(error):
                raise
            if isinstance(error, NOT_THE_MODELS):
                raise
        self.channels_last = False
        try:
            return vmap(per_sample, in_dims)(*args)
        except RuntimeError:
            self.channels_last = True  # that was not it
            raise

    def _timed(self, name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return function if self.clock is None else self.clock.timing([name], function)

    def _zeros(self, plan: Plan) -> "_Primals":
        """Extra inputs of taps: for norms, for output gradients of joint parameters, leftovers."""
        device, wide = self.subject.device, accumulation_dtype(self.subject.dtype)
        taps = list(enumerate(plan.coverage.taps))
        singles = [len(tap.single) for _, tap in taps]
        parts = torch.zeros(sum(singles), dtype=wide, device=device).split(singles)
        norms = dict(enumerate(parts)) if taps else {}
        carriers = {
            i: torch.zeros(tap.output_shape, dtype=tap.output_dtype, device=device)
            for i, tap in taps
            if tap.joint is not None
        }
        extras = {k: torch.zeros(1, dtype=wide, device=device) for k in plan.coverage.leftovers}
        return norms, carriers, extras

    def last_layer(self, plan: Plan) -> Callable[[Batch], Scored]:
        """Closed forms from logits and features: a forward pass without gradients."""
        subject = self.subject

        def run(batch: Batch) -> Scored:
            def per_sample(*leaves: Tensor) -> tuple[Tensor, ...]:
                tracked = {k: v.detach() for k, v in subject.values(plan.names).items()}
                view, stand_ins = subject.view(tracked)
                mode = HeadInput(Pieces(tracked), stand_ins, self.options.backend)
                self._set(mode, leaves)
                with mode:
                    logits = subject.run(view, batch, [leaf[None].clone() for leaf in leaves])
                if mode.features is None or mode.output is None:
                    raise PlanChangedError
                same.append(mode.is_output(logits))
                return logits, mode.features, mode.output.reshape(-1)

            same: list[bool] = []
            with torch.no_grad():
                logits, features, made = self._vmap(per_sample, 0, *batch.leaves)
                if not all(same) and not _agree(logits, made):
                    raise PlanChangedError  # these logits come from more than the last layer
                if self.options.temperature != 1:
                    logits = logits / self.options.temperature
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


def _agree(logits: Tensor, made: Tensor) -> bool:
    return logits.shape == made.shape and torch.allclose(logits, made, equal_nan=True)
