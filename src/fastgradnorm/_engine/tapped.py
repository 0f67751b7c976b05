"""One sample's forward pass with taps behind its operations, and the pull-backs through it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from fastgradnorm_kernels import accumulation_dtype, computed_by
from torch import Tensor
from torch.func import vjp, vmap

from fastgradnorm._engine.chunks import Chunks
from fastgradnorm._engine.plan import Plan
from fastgradnorm._engine.taps import Tapping, tap_parameter
from fastgradnorm._engine.timing import Clock
from fastgradnorm._model import Batch, Passage, Pieces, PlanChangedError, Subject
from fastgradnorm._operations import joint_sq_norm

_Primals = tuple[dict[int, Tensor], dict[int, Tensor], dict[str, Tensor]]
_PullBack = Callable[..., tuple[_Primals]]


class TappedPass:
    """A forward pass of one sample, inside `vmap` over samples, to pull cotangents back from.

    Args:
        subject: The model.
        plan: How it uses its parameters.
        batch: How it is called.
        leaves: The sample.
        passage: How it is run.
        chunks: How many cotangents are pulled back at a time.
        clock: Measures the rules, if given.

    Attributes:
        logits: `[*positions, C]`.

    Raises:
        PlanChangedError: If it uses its parameters in another way.
    """

    def __init__(
        self,
        subject: Subject,
        plan: Plan,
        batch: Batch,
        leaves: Sequence[Tensor],
        passage: Passage,
        chunks: Chunks,
        clock: Clock | None,
    ) -> None:
        self._subject, self._plan, self._batch, self._leaves = subject, plan, batch, leaves
        self._passage, self._chunks, self._clock = passage, chunks, clock
        self._joints: dict[int, Any] = {}
        self._reached: set[int | str] = set()
        # Fresh objects each time: a mode knows them by `id`.
        self._tracked = {
            name: value.detach()
            for name, value in subject.values(plan.tracked).items()
            if name not in plan.coverage.leftovers
        }
        found = cast(Any, vjp(self._forward, self._zeros(), has_aux=True))
        self.logits = cast(Tensor, found[0])
        self._pull_back = cast(_PullBack, found[1])
        self._saved = cast(dict[int, tuple[Tensor, ...]], found[2])

    def pull(self, cotangents: Tensor) -> Tensor:
        """Squared norms `[K, P]`, by `plan.names`, of cotangents `[K, *logits]`; once."""
        size = self._chunks.cotangents(self._plan, len(cotangents))
        *first, last = cotangents.to(self.logits.dtype).split(size)
        rows = [vmap(partial(self._columns, last=False))(chunk) for chunk in first]
        rows.append(vmap(partial(self._columns, last=True))(last))
        return self._by_parameter(torch.cat(rows))

    def _by_parameter(self, columns: Tensor) -> Tensor:
        """Squared norms `[K, P]`: pieces of one parameter have columns of their own, added here."""
        sums = self._plan.sums
        if sums is None:
            return columns
        total = columns.new_zeros(len(columns), len(self._plan.names))
        return total.index_add(1, sums, columns)

    def _forward(self, primals: _Primals) -> tuple[Tensor, dict[int, tuple[Tensor, ...]]]:
        norms, carriers, extras = primals
        subject, plan, taps = self._subject, self._plan, self._plan.coverage.taps
        direct = subject.values(plan.coverage.leftovers)
        tap = partial(tap_parameter, reached=self._reached, clock=self._clock)
        tapped = {k: tap(k, v, extras[k]) for k, v in direct.items()}
        own = {**self._tracked, **tapped}
        view, stand_ins = subject.view(own)
        mode = Tapping(
            Pieces(self._tracked),
            stand_ins,
            self._passage,
            self._leaves,
            taps,
            plan.harmless,
            [norms[i] for i in range(len(taps))],
            [carriers.get(i) for i in range(len(taps))],
            self._reached,
            self._clock,
        )
        alone = subject.options.params == "last_layer"
        mode.follower = lineage = subject.lineage(own, self._leaves) if alone else None
        with mode:
            inputs = [leaf[None].clone() for leaf in self._leaves]
            logits = subject.with_head(view, self._batch, inputs, lineage)
        mode.check_all()
        if self._passage.hooked and not plan.hooked:
            raise PlanChangedError
        self._joints = {i: joint for i, (joint, _) in mode.joints.items()}
        saved = {i: saved for i, (_, saved) in mode.joints.items()}
        mode.joints.clear()  # a circle, by the graph of what is saved, which would stay for long
        return logits, saved

    def _zeros(self) -> _Primals:
        """Extra inputs of taps: for norms, for output gradients of joint parameters, leftovers."""
        subject, coverage = self._subject, self._plan.coverage
        device, wide = subject.device, accumulation_dtype(subject.dtype)
        singles = [len(tap.single) for tap in coverage.taps]
        parts = torch.zeros(sum(singles), dtype=wide, device=device).split(singles)
        norms = dict(enumerate(parts)) if singles else {}
        carriers = {
            i: torch.zeros(tap.output_shape, dtype=tap.output_dtype, device=device)
            for i, tap in enumerate(coverage.taps)
            if tap.joint is not None
        }
        extras = {k: torch.zeros(1, dtype=wide, device=device) for k in coverage.leftovers}
        return norms, carriers, extras

    def _columns(self, cotangent: Tensor, last: bool) -> Tensor:
        coverage = self._plan.coverage
        with torch.no_grad():  # nobody wants the graph of the gradients
            with self._subject.responsible():
                ((norms, carried, extras),) = self._pull_back(cotangent, retain_graph=not last)
            coverage.check_pulled(self._reached)
            joined = [
                self._timed(name)(group, carried)
                for name, group in zip(coverage.joint_names, coverage.joints, strict=True)
            ]
        return torch.cat([*norms.values(), *joined, *extras.values()])

    def _timed(self, name: str) -> Callable[[Sequence[int], dict[int, Tensor]], Tensor]:
        return self._joined if self._clock is None else self._clock.timing([name], self._joined)

    def _joined(self, group: Sequence[int], carried: dict[int, Tensor]) -> Tensor:
        uses = [(self._joints[i], self._saved[i], carried[i]) for i in group]
        with computed_by(self._passage.settings.backend):
            return joint_sq_norm(uses)[None]
