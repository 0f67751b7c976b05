"""The engine against the caller's own model, on the caller's own batches.

What the engine sees of a model, a batch or an output, it sees with its own eyes; so the model is
called as its owner calls it, plain autograd pulls back to its owner's parameters, and scores are
made from the definition. Logits of up to `_ROWS` samples, gradients and scores of two are compared.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgradnorm._engine.engine import Engine
from fastgradnorm._engine.plan import Plan
from fastgradnorm._errors import NOT_THE_MODELS, SlowPathWarning
from fastgradnorm._model.batches import Batch
from fastgradnorm._process.memory import is_out_of_memory
from fastgradnorm._schemes.scored import Scored
from fastgradnorm._witness.gradients import Comparison
from fastgradnorm._witness.logits import check_rows, seen_logits
from fastgradnorm._witness.loss import check_company
from fastgradnorm._witness.meaning import Meaning
from fastgradnorm._witness.own_call import OwnModel
from fastgradnorm._witness.record import Record
from fastgradnorm._witness.samples import Choice, joined, moved

_ROWS = 16  # samples of one own call, at most: each costs two forward passes


@dataclass(frozen=True)
class _Look:
    """Samples that are verified: which samples of its batch, and what their own call gave."""

    batch: Batch
    start: int
    logits: Tensor
    alone: bool = False  # joined by a sample that is not of the batch, which has one


class Witness:
    """Verifies what an engine scores, as the option `verify` says.

    Args:
        engine: Scores the batches.

    Attributes:
        record: What was compared; None with `verify=False`.
        meaning: What outputs and inputs say, which are looked at too.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.meaning = engine, Meaning(engine)
        asked = engine.options.verify
        mode = "sampled" if asked is True else asked
        self.record = Record(mode) if isinstance(mode, str) else None
        self._choice = Choice(mode if isinstance(mode, str) else "", engine.options.seed)
        self._own: OwnModel | None = None
        self._single: Batch | None = None  # a first batch of one, to be joined by the next
        self._plans: list[Batch] = []
        self._scoring = False  # plans that a look itself leads to are none of the pool's
        self._apart = False  # whether the model is known to give samples other logits in company
        self.also = None if engine.also is None else Witness(engine.also)
        if self.record is not None:
            engine.noticed = self._noticed
            if self.also is not None:
                self.also.record = self.record

    def score(self, batch: Batch) -> Scored:
        """What the engine makes of a batch, verified if it is its turn.

        Raises:
            UnsupportedModelError: If a sample's logits depend on the others in its batch.
            VerificationError: If the engine disagrees with plain autograd.
        """
        scored = self._score(batch)
        if self.also is None:
            return scored
        more = self.also.score(batch)
        errors = scored.errors | more.errors
        return Scored(scored.scores | more.scores, errors, scored.logits)

    def _score(self, batch: Batch) -> Scored:
        if self.record is None:
            return self.engine.score(batch)
        looks: list[_Look] = []
        with self._timed():
            self.meaning.look(batch)
            looks = self._looked(batch) if self._turn(batch) else []
        self._scoring = True
        try:
            scored = self.engine.score(batch)
        finally:
            self._scoring = False
        with self._timed():
            self.meaning.count(scored)
            for look in looks:
                self._examine(look, None if look.alone else scored)
            while self._plans:
                pair = self._plans.pop()
                self._examine(self._look(pair, 0, alone=False), None)
        return scored

    def _noticed(self, plan: Plan, batch: Batch) -> None:
        if self._choice.plan(plan) and self._scoring:
            self._plans.append(batch.take(slice(0, 2)))

    def _turn(self, batch: Batch) -> bool:
        turn = self._choice.batch()
        return turn or (self._single is not None and len(batch) > 0)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        assert self.record is not None
        start = time.perf_counter()
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            warnings.warn(
                "Samples could not be verified: there is no memory for the plain gradients that "
                "are compared with. verify=False leaves that out.",
                SlowPathWarning,
                stacklevel=2,
            )
        finally:
            self.record.seconds += time.perf_counter() - start

    def _looked(self, batch: Batch) -> list[_Look]:
        """The own call on a chunk of the batch, or on all; on two samples if the batch has one."""
        engine = self.engine
        plan = engine.plan(batch)  # a model that cannot run on one sample is told by its layer
        if len(batch) > 1:
            self._single = None
            planned, count = engine.outcome.planned(plan), engine.outcome.count(plan)
            size = max(2, engine.chunks.sizes(planned, len(batch), count)[0])
            blocks = self._choice.blocks(len(batch), min(size, len(batch), _ROWS))
            return [self._look(batch.take(block), block.start, alone=False) for block in blocks]
        pairs = [joined(self._single, batch)] if self._single is not None else []
        self._single = None if self._single is not None else batch
        twice = moved(batch)
        for pair in (*pairs, twice):
            if pair is not None:
                try:
                    return [self._look(pair, 0, alone=True)]
                except NOT_THE_MODELS:
                    raise
                except Exception as error:  # a model that takes single samples alone
                    if is_out_of_memory(error):
                        raise
        return [self._look(batch, 0, alone=True)]

    def _look(self, batch: Batch, start: int, alone: bool) -> _Look:
        if self._own is None:
            self._own = OwnModel(self.engine.subject)
        try:
            return _Look(batch, start, self._own.logits(batch), alone)
        except Exception as error:
            error.add_note(
                f"This is the model's own call on {len(batch)} samples of a batch, made by "
                "`verify` before they are scored."
            )
            raise

    def _examine(self, look: _Look, scored: Scored | None) -> None:
        assert self.record is not None and self._own is not None
        record, own, batch = self.record, self._own, look.batch
        record.batches += 1
        record.rows += len(batch)
        quiet = look.alone  # the caller's batches have one sample, which has no company
        if scored is not None:
            scored = scored.take(slice(look.start, look.start + len(batch)))
        seen = None if scored is None else scored.logits
        seen = seen_logits(self.engine, batch) if seen is None else seen
        self._apart |= check_rows(self.engine, own, batch, seen, look.logits, record, quiet)
        if self.engine.options.by_output:
            check_company(own, batch.take(slice(0, 2)))
        if self._choice.mode == "all":
            groups = [list(range(i, min(i + 2, len(batch)))) for i in range(0, len(batch), 2)]
        else:
            groups = [self._choice.pair(len(batch))]
        for group in groups:
            pair = batch.take(torch.tensor(group, device=self.engine.subject.device))
            if scored is None:
                made = self.engine.score(pair)
            else:
                made = scored.take(torch.tensor(group, device=_device(scored)))
            comparison = Comparison(self.engine, own, pair, record, self._apart)
            comparison.check(made, look.start + group[0])


def _device(scored: Scored) -> torch.device:
    return next(iter(scored.scores.values())).device
