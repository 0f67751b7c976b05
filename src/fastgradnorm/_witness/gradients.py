"""Gradients and scores of a few samples, by plain autograd from the model's own call."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fastgradnorm._engine import Engine
from fastgradnorm._errors import NOT_THE_MODELS, VerificationError
from fastgradnorm._model import Batch
from fastgradnorm._schemes import Scored
from fastgradnorm._witness.company import differ
from fastgradnorm._witness.counted import counted, spread
from fastgradnorm._witness.errors import disagreement
from fastgradnorm._witness.estimates import Estimates
from fastgradnorm._witness.formulas import Asked, asked
from fastgradnorm._witness.logits import check_rows, seen_logits
from fastgradnorm._witness.own_call import OwnModel
from fastgradnorm._witness.pulled import Gradients
from fastgradnorm._witness.record import Record
from fastgradnorm._witness.rounding import Tolerance, doubled, movement, tolerance
from fastgradnorm._witness.seen import Seen

_NORMS = 8  # cotangents of each sample whose norms are compared: a wrong rule is wrong for all
# Most cotangents of a sample of which scores are made: a pull-back each, to the last layer alone,
# or to the whole model. With verify="all" there is no bound.
_HEAD, _WHOLE = 1024, 16
# A parameter whose gradient is zero but for rounding (a bias before a norm layer) has no digits to
# compare; below this share of the whole gradient, times the tolerance, it is not looked at.
_NOISE, _NOISE_HALF = 1e-2, 1e-1
_DIGITS = 8  # units in the last place of what adds up to a gradient
_ERRORS = 6.0  # standard errors by which an estimate may be off


class Comparison:
    """Of an engine with plain autograd, on samples of one batch.

    Args:
        engine: The engine.
        own: The caller's model.
        batch: The samples.
        record: Takes note.
        apart: Whether the model is called on each of them alone: company is known to change them.
    """

    def __init__(
        self, engine: Engine, own: OwnModel, batch: Batch, record: Record, apart: bool = False
    ) -> None:
        self.engine, self.own, self.batch, self.record = engine, own, batch, record
        self._apart, self._by_output = apart, engine.options.by_output
        self._head = engine.options.params == "last_layer"
        heads = counted(engine, batch)
        self.names = tuple(dict.fromkeys(name for head in heads for name in head))
        # [n or 1, P]: what is a sample's last layer may lie below that of another one.
        self._counts = torch.tensor(
            [[name in head for name in self.names] for head in heads], device="cpu"
        )

    def _counted(self, row: int, norms: Tensor) -> Tensor:
        """Of (squared) norms `[P]`, those that count for a sample; 0 for others."""
        counts = self._counts[row % len(self._counts)].to(norms.device)
        return torch.where(counts, norms, 0.0)

    @property
    def _limits(self) -> Tolerance:
        return tolerance(self.engine.subject, self.own.narrow)

    @property
    def _is_closed(self) -> bool:
        """Whether scores are made of logits and features: no norm of a pass has a part in them."""
        engine = self.engine
        one_way = len(engine.plans(self.batch)) == 1 and not engine.passes.branched
        return self._head and one_way and engine.outcome.count(engine.plan(self.batch)) == 0

    @property
    def _is_narrow(self) -> bool:
        return self._limits.rounding > 1e-2

    def check(self, scored: Scored, first: int) -> None:
        """Compares norms of each parameter's gradient, and scores.

        Args:
            scored: What the engine made of the samples.
            first: The place of the first one in its batch, to be told.

        Raises:
            VerificationError: Naming the sample, and the parameter or the scheme.
        """
        seen = seen_logits(self.engine, self.batch) if scored.logits is None else scored.logits
        runs = self._runs(seen)
        valid = self.batch.valid(seen.shape[1:])
        options, target = self.engine.options, self.batch.target
        asks = [
            asked(
                row,
                None if valid is None else valid[i],
                options,
                None if target is None else target[i : i + 1],
            )
            for i, row in enumerate(seen)
        ]
        if not len(asks[0]):  # scores of the logits alone
            for i, ask in enumerate(asks):
                if bool(seen[i].isfinite().all()):
                    none = seen.new_zeros(0, 1).double()
                    self._compare_scores(i, first + i, ask, scored, none)
            return
        places = self._places(len(asks[0]))
        few = spread(places, _NORMS)
        units, scales = zip(*(self._units(ask, few) for ask in asks), strict=True)
        whole = len(places) == len(asks[0]) and options.schemes[0] in scored.scores
        actual = None if whole and self._is_closed else self._norms(torch.stack(units))
        for i, ask in enumerate(asks):
            if not bool(units[i].isfinite().all()):
                continue  # a NaN input has no gradient to compare
            exact = self._exact(i, runs[i], ask, places)
            self.record.samples += 1
            compared = torch.stack([exact[k] for k in few])
            if self._is_noise(compared, scales[i]):
                continue  # nothing but rounding is there to compare
            if actual is not None:
                seen_norms = actual[i].double() * scales[i].square()[:, None]
                self._compare_norms(i, first + i, ask, few, seen_norms, compared)
            if whole:
                sq_norms = torch.stack([exact[k] for k in places])
                self._compare_scores(i, first + i, ask, scored, sq_norms)

    def _runs(self, seen: Tensor) -> list[tuple[Gradients, int]]:
        """For each sample a call of the model, and its row; NaN in one would reach the others."""
        samples = range(len(self.batch))
        if not self._apart and bool(seen.isfinite().all()):
            run = self.own.gradients(self.batch, self.names)
            alike = differ(seen, run.logits) <= self._limits.rounding
            given = self.engine, self.own, self.batch, seen, run.logits.detach(), self.record
            self._apart = not alike and check_rows(*given)
            if not self._apart:
                return [(run, i) for i in samples]
        return [(self._alone(i), 0) for i in samples]

    def _exact(
        self, row: int, run: tuple[Gradients, int], ask: Asked, places: Sequence[int]
    ) -> dict[int, Tensor]:
        """Squared norms by plain autograd, by cotangent."""
        exact = {k: self._counted(row, self._own_sq_norms(*run, ask, k)) for k in places}
        if len(self.batch) > 1 and not all(bool(each.isfinite().all()) for each in exact.values()):
            # Zeros that are pulled back through an infinite slope of another sample are NaN.
            alone = self._alone(row), 0
            exact = {k: self._counted(row, self._own_sq_norms(*alone, ask, k)) for k in places}
        return exact

    def _units(self, ask: Asked, few: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cotangents with a largest entry of 1, and what each was divided by: none underflows.

        Where that would change what comes of them they are as they are.
        """
        cotangents = torch.stack([ask.cotangent(k) for k in few])
        scales = cotangents.flatten(1).abs().amax(-1).clamp_min(torch.finfo(cotangents.dtype).tiny)
        scales = torch.ones_like(scales) if self.engine.subject.clips else scales * ask.size
        return cotangents / scales.view(-1, *[1] * (cotangents.dim() - 1)), scales

    def _own_sq_norms(self, run: Gradients, row: int, ask: Asked, k: int) -> Tensor:
        (unit,), scales = self._units(ask, [k])
        return run.sq_norms(row, unit) * scales.square()

    def _alone(self, row: int) -> Gradients:
        return self.own.gradients(self.batch.take(slice(row, row + 1)), self.names)

    def _places(self, count: int) -> list[int]:
        """Cotangents that are pulled back: all that scores take, or some."""
        most = _HEAD if self._head else _WHOLE
        everything = self.record.mode == "all" or count <= most
        return list(range(count)) if everything else spread(range(count), _NORMS)

    def _norms(self, cotangents: Tensor) -> Tensor:
        engine = self.engine.making(Seen(self.names, cotangents.shape[1]))
        return engine.score(replace(self.batch, beside=cotangents)).scores["sq_norms"]

    def _is_noise(self, exact: Tensor, scales: Tensor) -> bool:
        """Whether float64 has no digits of any gradient: they cancel."""
        if self.engine.subject.dtype != torch.float64:
            return False
        least = _DIGITS * torch.finfo(torch.float64).eps
        return bool((exact.sum(-1).sqrt() <= least * scales).all())

    def _compare_norms(
        self, row: int, sample: int, ask: Asked, few: Sequence[int], actual: Tensor, exact: Tensor
    ) -> None:
        """For squared norms `[K, P]`."""
        actual, exact = actual.clamp_min(0).sqrt(), exact.sqrt()
        self.record.gradients += exact.numel()
        whole = torch.linalg.vector_norm(exact.nan_to_num(0, 0), dim=-1, keepdim=True)
        noise = _NOISE_HALF if self._is_narrow else _NOISE
        size = torch.maximum(exact, noise * whole).clamp_min(torch.finfo(exact.dtype).tiny)
        # Of a loss that is NaN so is the gradient: samples without a score are told in the end.
        same = (actual == exact) | (actual.isnan() & exact.isnan())
        difference = torch.where(same, 0.0, (actual - exact).abs() / size)
        difference = difference.nan_to_num(torch.inf)
        missing = (actual == 0) & (difference > self._limits.rounding)
        k, p = divmod(int(torch.where(missing, torch.inf, difference).argmax()), exact.shape[1])
        relative, zero = float(difference[k, p]), bool(missing[k, p])
        if relative > self._limits.rounding:
            gaps = exact[k] if zero else (actual[k] - exact[k]).abs()

            def moves() -> bool:
                within = gaps <= self._movement(row, ask.cotangent(few[k]))
                # Zero is no rounding, but where all of a loss' gradient is: near its teacher.
                return bool(within.all() if zero else within[p]) and (self._by_output or not zero)

            if not self._excuses(math.inf if zero else relative, moves):
                raise disagreement(
                    sample,
                    f"the gradient of `{self.names[p]}` has norm {float(exact[k, p]):.6g}, the "
                    f"engine computed {float(actual[k, p]):.6g}",
                    zero,
                )
            return
        self.record.differ(relative)

    def _compare_scores(
        self,
        row: int,
        sample: int,
        ask: Asked,
        scored: Scored,
        sq_norms: Tensor,
    ) -> None:
        lost = ask.lost(sq_norms)
        for scheme, (score, error) in ask.scores(sq_norms, self.engine.options).items():
            actual, found, slack = float(scored.scores[scheme][row]), scored.errors.get(scheme), 0.0
            told = None if found is None else float(found[row])
            if told is not None and told > 0 and error is None:  # some classes stand for all
                estimates = Estimates(ask.logits, sq_norms, self.engine, self._limits.rounding)
                score, slack = estimates.wanted(scheme, actual, score, told)
            pairs = [("score", actual, score)]
            if told is not None and error is not None and not math.isnan(error):
                pairs.append(("standard error", told, error))
            for what, actual, wanted in pairs:
                size = max(abs(wanted), torch.finfo(torch.float32).tiny)
                if actual == wanted or (math.isnan(actual) and math.isnan(wanted)):
                    self.record.differ(0.0)
                    continue
                gap = abs(actual - wanted)
                relative = max(0.0, gap - slack - lost) / size if math.isfinite(gap) else math.inf
                if relative <= self._limits.rounding:
                    self.record.differ(relative)
                elif not self._is_excused(row, ask, scheme, relative):
                    gives = f"the {what} by `{scheme}` is {wanted:.6g}, the engine computed "
                    raise disagreement(sample, f"{gives}{actual:.6g}", actual == 0)
        self.record.scores += 1

    def _is_excused(self, row: int, ask: Asked, scheme: str, relative: float) -> bool:
        return self._excuses(relative, partial(self._moves_as_far, row, ask, scheme, relative))

    def _excuses(self, relative: float, moves: Callable[[], bool]) -> bool:
        """Whether rounding is at fault; `moves` tells whether trials move as far.

        They alone decide of a loss that reads what cannot be made float64, as a teacher.
        """
        precise = self._is_rounding()
        if precise is None:
            return self._by_output and moves()
        return precise and (relative <= self._limits.double or moves())

    def _moves_as_far(self, row: int, ask: Asked, scheme: str, relative: float) -> bool:
        last = not len(ask.weights) or scheme in ("entropy", "loss")
        heaviest = len(ask) - 1 if last else int(ask.weights.argmax())
        cotangent = ask.cotangent(heaviest)
        sq_norms = self._own_sq_norms(self._alone(row), 0, ask, heaviest)
        whole = self._counted(row, sq_norms).sum().sqrt()
        room = torch.linalg.vector_norm(self._movement(row, cotangent)) / whole
        return relative <= float(room) * (2 if scheme == "expected_squared" else 1)

    def _movement(self, row: int, cotangent: Tensor) -> Tensor:
        sample = self.batch.take(slice(row, row + 1))
        unit = cotangent.abs().amax()
        given = self.engine.subject, sample, self.names, cotangent / unit, self._is_narrow
        return self._counted(row, movement(*given)) * unit

    def _is_rounding(self) -> bool | None:
        """Whether all agrees in float64; None for models that do not run there."""
        wide = doubled(self.engine.subject, self.batch, self.engine.options.changed(verify=False))
        if wide is None:
            return None
        self.record.in_float64 += 1
        try:
            engine, batch = wide
            own, record = OwnModel(engine.subject), Record(self.record.mode)
            precise = Comparison(engine, own, batch, record, self._apart)
            precise.check(engine.score(batch), 0)
        except NOT_THE_MODELS:
            raise
        except VerificationError:
            return False
        except Exception:  # of the caller's model
            return None
        return True
