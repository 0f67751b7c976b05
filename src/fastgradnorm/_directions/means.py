"""The mean of the gradients of a pool, from one graph of each chunk of samples."""

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from fastgradnorm_kernels.functorch import in_memory
from torch import Tensor, nn
from torch.func import vjp

from fastgradnorm._directions.pulled import Pulled
from fastgradnorm._engine import Outcome, Passes, Plan
from fastgradnorm._errors import ArgumentError, NonFiniteScoreError, VerificationError
from fastgradnorm._model import Batch, Passage, Pieces, Subject, Watch
from fastgradnorm._operations import in_double, numbers
from fastgradnorm._options import Options
from fastgradnorm._pool import Run, make_engine, make_pool
from fastgradnorm._process import OwnRandomState
from fastgradnorm._schemes import Scored
from fastgradnorm._witness import OwnModel, compared, movement, tolerance

_Vjp = tuple[Tensor, Callable[..., tuple[Tensor, ...]]]

_VERIFIED = 2  # samples
_MOST = 1 << 26  # numbers of gradients that are formed by sample, at a time


def mean(model: nn.Module, loader: Any, options: Options, scheme: str) -> dict[str, Tensor]:
    """By the names of the parameters that count; on the CPU."""
    with OwnRandomState():
        make = partial(Sums, scheme=scheme)
        engine = make_engine(model, options, make, labelled=True)
        sums = engine.outcome
        assert isinstance(sums, Sums)
        count = 0
        for part in Run(engine, make_pool(loader, None, options.seed)).parts(apart=False):
            count += len(part)
    if count == 0:
        raise ArgumentError("`loader` must yield at least one sample. Got none.", "loader")
    dtype = torch.float64 if engine.subject.dtype == torch.float64 else torch.float32
    made = {name: (total / count).cpu() for name, total in sums.totals.items()}
    made = {n: v.to(dtype.to_complex() if v.is_complex() else dtype) for n, v in made.items()}
    _check_finite(made, options)
    return made


def _check_finite(means: Mapping[str, Tensor], options: Options) -> None:
    """Says so, as `on_nonfinite` has it, if one is no number."""
    bad = [name for name, mean in means.items() if not bool(mean.isfinite().all())]
    if not bad or options.on_nonfinite == "keep":
        return
    told = (
        f"The mean gradient of `{bad[0]}` is NaN or infinite, as that of some sample is: "
        "`score_pool` with the same loss tells which."
    )
    if options.on_nonfinite == "warn":
        warnings.warn(told, stacklevel=4)
    else:
        advice = "`on_nonfinite='keep'` passes it on."
        raise NonFiniteScoreError(f"{told} {advice}", [], means)


class Outside(Watch):
    """For a graph that is made outside of `vmap`, whose tensors do not tell that they are in it.

    A model may put a hook on the gradient of what requires one, which is to be noted.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = super().__torch_function__(func, types, args, kwargs)
        if found is False and getattr(func, "__self__", None) is Tensor.requires_grad:
            return torch.is_grad_enabled() and in_memory(args[0]).requires_grad
        return found


class Sums:
    """An outcome of passes that adds up gradients, and gives the samples nothing but a one.

    Attributes:
        totals: By parameter, float64.
    """

    def __init__(self, subject: Subject, options: Options, scheme: str) -> None:
        self.options, self.pulled = options, 0
        self.slow: str | None = "This model cannot run under vmap: its samples are run one by one."
        self._pulled, self._verify = Pulled(options, scheme), bool(options.verify)
        self._adds = True
        self.totals = {
            name: torch.zeros_like(in_double(value))
            for name, value in subject.values(list(subject.chosen)).items()
        }

    def count(self, plan: Plan) -> int:
        """As in `Outcome`."""
        return 1

    def planned(self, plan: Plan) -> Plan:
        """As in `Outcome`."""
        return plan

    def make(self, passes: Passes, plan: Plan, batch: Batch) -> Scored:
        """Adds the gradients of all samples."""
        found = self._sum(passes, plan, batch)
        if self._verify:
            self._verify = False
            few = batch.take(slice(0, _VERIFIED))
            check = partial(self._check, few, self._sum(passes, plan, few))
            compared(OwnModel(passes.subject), check)
        return self._added(found, batch)

    def _sum(self, passes: Passes, plan: Plan, batch: Batch) -> list[Tensor | None]:
        subject, pulled = passes.subject, self._pulled
        values = subject.values(list(self.totals))
        parameters = {name: value.detach().requires_grad_() for name, value in values.items()}

        def one(
            passage: Passage,
            leaves: Sequence[Tensor],
            valid: Tensor | None,
            label: Tensor | None,
        ) -> Tensor:
            logits = self._logits(subject, parameters, batch, passage, leaves)
            unit, scale = pulled.cotangent(logits.detach(), valid, label)
            return (logits * (unit * scale).to(logits.dtype)).sum()

        target, valid = pulled.target(batch, plan.logits_shape), batch.valid(plan.logits_shape)
        if subject.hooks:
            return self._sum_by_sample(passes, plan, batch, valid, target)
        with torch.enable_grad():
            values_of = passes.run(None, one, batch, valid, target, plan=plan)
            with subject.responsible():
                return _pulled_back(values_of.sum(), list(parameters.values()))

    def _sum_by_sample(
        self,
        passes: Passes,
        plan: Plan,
        batch: Batch,
        valid: Tensor | None,
        target: Tensor | None,
    ) -> list[Tensor | None]:
        """For a model with hooks on gradients, or functions of its own.

        They take part where they are, within `vmap`, and not in a graph that is made outside of it.
        """
        subject, pulled = passes.subject, self._pulled
        values = subject.values(list(self.totals))

        def one(
            passage: Passage,
            leaves: Sequence[Tensor],
            valid: Tensor | None,
            label: Tensor | None,
        ) -> tuple[Tensor, ...]:
            def forward(*given: Tensor) -> Tensor:
                parameters = dict(zip(values, given, strict=True))
                return self._logits(subject, parameters, batch, passage, leaves)

            logits, pull_back = cast(_Vjp, vjp(forward, *values.values()))
            unit, scale = pulled.cotangent(logits.detach(), valid, label)
            with torch.no_grad(), subject.responsible():
                return pull_back((unit * scale).to(logits.dtype), retain_graph=False)

        step = max(1, _MOST // max(1, sum(value.numel() for value in values.values())))
        total = [torch.zeros_like(value) for value in values.values()]
        for start in range(0, len(batch), step):
            part = slice(start, start + step)
            labels = [None if each is None else each[part] for each in (valid, target)]
            found = passes.run(None, one, batch.take(part), *labels, plan=plan)
            total = [a + g.sum(0) for a, g in zip(total, found, strict=True)]
        return [*total]

    def _logits(
        self,
        subject: Subject,
        parameters: Mapping[str, Tensor],
        batch: Batch,
        passage: Passage,
        leaves: Sequence[Tensor],
    ) -> Tensor:
        """Of one sample, under `vmap`."""
        view, stand_ins = subject.view(parameters)
        with Outside(Pieces({}), stand_ins, passage, leaves):
            return subject.tempered(view, batch, [leaf[None].clone() for leaf in leaves])

    def alone(
        self, subject: Subject, sample: Batch, error: Exception | None, run: Callable[[], Scored]
    ) -> Scored:
        """By plain autograd."""
        found, scale = self._pulled.plain_gradients(subject, sample, list(self.totals))
        return self._added([None if g is None else g * scale for g in found], sample)

    def check(self, plan: Plan, batch: Batch) -> None:
        """As in `Outcome`."""
        self._pulled.target(batch, plan.logits_shape)

    def aside(self) -> Outcome:
        """Adds nothing up."""
        other = copy.copy(self)
        other._adds = False
        return other

    def nothing(self, dtype: torch.dtype) -> Scored:
        """As in `Outcome`."""
        return Scored({"one": torch.empty(0, dtype=dtype, device="cpu")}, {})

    def _added(self, found: Sequence[Tensor | None], batch: Batch) -> Scored:
        for total, gradient in zip(self.totals.values(), found, strict=True):
            if gradient is not None and self._adds:
                total += gradient
        return Scored({"one": torch.ones(len(batch), device=batch.leaves[0].device)}, {})

    def _check(self, few: Batch, found: Sequence[Tensor | None], own: OwnModel) -> None:
        """The sum of a few samples by plain autograd, from the caller's own model alone on each."""
        names = list(self.totals)
        exact = [torch.zeros_like(total) for total in self.totals.values()]
        pulled: list[tuple[Batch, Tensor, float]] = []
        for i in range(len(few)):
            sample = few.take(slice(i, i + 1))
            run = own.gradients(sample, names)
            unit, scale = self._pulled.of_sample(run.logits[0], sample)
            pulled.append((sample, unit, float(scale)))
            for total, gradient in zip(exact, run.gradients(0, unit), strict=True):
                if gradient is not None:
                    total += gradient.to_dense() * scale
        whole = sum(float(numbers(total).square().sum()) for total in exact) ** 0.5
        room = tolerance(own.subject).double * whole
        looked = False
        for name, total, gradient in zip(names, exact, found, strict=True):
            gap = float((total if gradient is None else total - gradient).norm())
            if gap > room and not looked:  # gradients that cancel move by rounding
                looked = True
                room = max(room, sum(_moved(own, names, *each) for each in pulled))
            if not gap <= room and whole < math.inf:  # where a sample's is no number `mean` says so
                raise VerificationError(
                    "The engine disagrees with plain autograd on the first samples: the gradient "
                    f"of `{name}` differs by {gap:.3g}, of {whole:.3g} in all. Please report this "
                    "with the layer's definition."
                )


def _moved(own: OwnModel, names: Sequence[str], sample: Batch, unit: Tensor, scale: float) -> float:
    """How far one sample's gradient moves by rounding, at most."""
    found = movement(own.subject, sample, names, unit, own.narrow)
    return float(torch.linalg.vector_norm(found)) * scale


def _pulled_back(total: Tensor, parameters: list[Tensor]) -> list[Tensor | None]:
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return [g.to_dense() if g is not None and g.is_sparse else g for g in found]
