"""Sketches of gradients as an outcome of passes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from fastgradnorm_kernels import accumulation_dtype
from torch import Tensor

from fastgradnorm._directions import Pulled, check_metric
from fastgradnorm._engine import (
    Maps,
    Outcome,
    Passes,
    Plan,
    make_plan,
    rescaled,
    sample_sketch,
    transient_elements,
    used_once,
)
from fastgradnorm._errors import VerificationError
from fastgradnorm._model import Batch, Passage, Subject
from fastgradnorm._operations import numbers
from fastgradnorm._options import Options
from fastgradnorm._pool import digest
from fastgradnorm._schemes import Groups, Scored
from fastgradnorm._witness import OwnModel, compared, movement, tolerance

# Samples that are verified, and how much longer than a difference of gradients its sketch may be.
_VERIFIED, _MARGIN = 2, 4
_SLOW = (
    "This model cannot run under vmap, so that samples are sketched one by one with plain "
    "autograd: exact, and slow."
)
# Of the columns of a result.
COLUMN, NORMS = "sketch", "norms"


class Sketches:
    """An outcome of passes: sketches `[G * dim]` of each sample's gradient, one a group.

    Args:
        subject: The model.
        options: All that is asked for.
        dim: Length of a sketch.
        scheme: Of what the gradient is.
        norms: Whether the norms of the groups' gradients are made too.
        beside: Whether these stand in the rows of the sketches, after them, instead of apart.
        scales: What gradients are multiplied by, by parameter; None: nothing.

    Attributes:
        groups: Of parameters, as `group_by` has them; None: one of all.
    """

    def __init__(
        self,
        subject: Subject,
        options: Options,
        dim: int,
        scheme: str,
        norms: bool = False,
        beside: bool = False,
        scales: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.norms, self._beside = norms, beside
        self._scales: dict[str, Tensor] | None = None
        if scales is not None:
            wide, device = accumulation_dtype(subject.dtype), subject.device
            last = options.params == "last_layer"  # which parameters that are, a plan tells
            check_metric(scales, [] if last else subject.chosen)
            known = [name for name in subject.chosen if name in scales]
            self._scales = {name: scales[name].to(device, wide) for name in known}
        self.subject, self.options, self.dim, self.scheme = subject, options, dim, scheme
        self._made = Pulled(options, scheme)
        self.pulled = 0
        self.slow: str | None = None  # not where each sample has a pass of its own
        self._maps, self._verify = Maps(subject, dim, options.seed), bool(options.verify)
        by = options.group_by
        self.groups = None if by is None else Groups(by, subject.chosen)
        self._count = 1 if self.groups is None else len(self.groups.names)

    @property
    def facts(self) -> dict[str, str]:
        """What must be the same for a run to be continued."""
        told = {"sketches": f"{self.dim} {self.scheme}" + " with norms" * self.norms}
        return told if self._scales is None else {**told, "metric": digest(self._scales.values())}

    def count(self, plan: Plan) -> int:
        """As in `Outcome`."""
        return 1

    def planned(self, plan: Plan) -> Plan:
        """Where no norm is taken, of parameters with a rule no gradient is formed."""
        scaled = self._scales is not None
        check_metric(self._scales, plan.tracked)
        transient = plan.item_bytes * transient_elements(plan, self.subject, self.dim, scaled)
        transient = max(plan.transient_bytes, transient)
        transient += plan.item_bytes * 4 * self._count * self.dim
        if self.norms:
            return replace(plan, transient_bytes=transient)
        return replace(plan, transient_bytes=transient, scratch_bytes=0, gradient_bytes=0)

    def make(self, passes: Passes, plan: Plan, batch: Batch) -> Scored:
        """Sketches of all samples, in order."""
        valid, target = batch.valid(plan.logits_shape), self._made.target(batch, plan.logits_shape)

        def one(passage: Passage, leaves: Sequence[Tensor], *known: Tensor | None) -> Tensor:
            return self._one(plan, batch, passage, leaves, *known)

        found = passes.run(f"sketch {id(plan)}", one, batch, valid, target, plan=plan)
        if self._verify:
            self._verify = False
            compared(OwnModel(self.subject), partial(self._check, plan, batch, found))
        return self._scored(found)

    def alone(
        self, subject: Subject, sample: Batch, error: Exception | None, run: Callable[[], Scored]
    ) -> Scored:
        """One sample that takes a branch of its own, by a pass of its own; else plain autograd."""
        if error is None:
            return run()
        self.slow = _SLOW
        last = self.options.params == "last_layer"
        names = make_plan(subject, sample).tracked if last else list(subject.chosen)
        check_metric(self._scales, names)
        gradients, scale = self._made.plain_gradients(subject, sample, names)
        like = torch.empty(0, dtype=accumulation_dtype(subject.dtype), device=scale.device)
        sketches, sizes = self._exact(names, gradients, scale, like)
        if not self.norms:
            return self._scored(sketches[None])
        norms = (sizes.sqrt() * float(scale)).to(sketches)
        return self._scored(torch.cat([sketches, norms])[None])

    def check(self, plan: Plan, batch: Batch) -> None:
        """As in `Outcome`."""
        self._made.target(batch, plan.logits_shape)

    def aside(self) -> Outcome:
        """As in `Outcome`."""
        return self

    def nothing(self, dtype: torch.dtype) -> Scored:
        """As in `Outcome`."""
        sizes = {COLUMN: self._count * self.dim}
        if self.norms and self._beside:
            sizes[COLUMN] += self._count
        elif self.norms:
            sizes[NORMS] = self._count
        return Scored(
            {k: torch.empty(0, size, dtype=dtype, device="cpu") for k, size in sizes.items()}, {}
        )

    def _one(
        self,
        plan: Plan,
        batch: Batch,
        passage: Passage,
        leaves: Sequence[Tensor],
        valid: Tensor | None,
        target: Tensor | None,
    ) -> Tensor:
        """The sketch of one sample, inside `vmap`."""

        def cotangent(logits: Tensor) -> tuple[Tensor, Tensor]:
            return self._made.cotangent(logits, valid, target)

        parts = self.subject, batch, passage, leaves, plan.tracked, self._maps, cotangent
        single = used_once(plan) if self.norms else None
        return sample_sketch(*parts, self._place, self._count, single, self._scales)

    def _place(self, name: str) -> int:
        return 0 if self.groups is None else self.groups.place(name)

    def _check(self, plan: Plan, batch: Batch, found: Tensor, own: OwnModel) -> None:
        """The first samples by plain autograd, from the caller's own model alone on each.

        Raises:
            VerificationError: If their sketches are others, by more than rounding explains.
        """
        names = plan.tracked
        for alone in self._made.alone(own, names, batch, _VERIFIED):
            i, scale = alone.number, float(alone.scale)
            width = self._count * self.dim
            exact, sizes = self._exact(names, alone.gradients, alone.scale, found)
            apart = (found[i, :width] - exact).view(self._count, self.dim)
            gaps = torch.linalg.vector_norm(apart, dim=1)
            if self.norms:
                gaps = gaps.maximum((found[i, width:] - (sizes.sqrt() * scale).to(gaps)).abs())
            room = _MARGIN * tolerance(self.subject, own.narrow).double * sizes.sum().sqrt()
            if bool((gaps <= room * scale).all()):
                continue
            given = self.subject, alone.sample, names, alone.unit, own.narrow
            most = max(float(s.max()) for s in self._scales.values()) if self._scales else 1.0
            moved = _MARGIN * most * float(torch.linalg.vector_norm(movement(*given) * scale))
            if not bool((gaps <= moved).all()):
                gap, size = float(gaps.max()), float(sizes.sum().sqrt()) * scale
                raise VerificationError(
                    f"The engine disagrees with plain autograd on sample {i}: its sketch is off by "
                    f"{gap:.3g}, its gradient as long as {size:.6g}. Please report this with the "
                    "layer's definition."
                )

    def _scored(self, found: Tensor) -> Scored:
        """From sketches `[N, G * dim]`, after which norms `[N, G]` may follow."""
        if self._beside or not self.norms:
            return Scored({COLUMN: found}, {})
        size = self._count * self.dim
        return Scored({COLUMN: found[:, :size], NORMS: found[:, size:]}, {})

    def _exact(
        self,
        names: Sequence[str],
        gradients: Sequence[Tensor | None],
        scale: Tensor,
        like: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The sketches `[G * dim]`, and squared norms `[G]`, over the scale, of gradients."""
        exact = like.new_zeros(self._count, self.dim)
        sizes = torch.zeros(self._count, dtype=torch.float64, device="cpu")
        for name, g in zip(names, gradients, strict=True):
            if g is not None:
                g, place = g.detach().to_dense(), self._place(name)  # of a lookup they are sparse
                g = g if self._scales is None else rescaled(g, self._scales[name])
                exact[place] += self._maps.of(name).formed(g).to(exact.dtype)
                sizes[place] += float(numbers(g).square().sum())
        return exact.flatten() * scale, sizes
