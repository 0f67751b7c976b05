"""The engine against the caller's own model, on the caller's own batches.

What the engine sees of a model, a batch or an output, it sees with its own eyes; so the model is
called as its owner calls it, plain autograd pulls back to its owner's parameters, and scores are
made from the definition. Logits of up to `_ROWS` samples, gradients and scores of two are compared.
"""

import contextlib
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastgradnorm._engine import Engine, Plan
from fastgradnorm._errors import NOT_THE_MODELS, SlowPathWarning
from fastgradnorm._model import Batch
from fastgradnorm._process import autograd_ready, is_out_of_memory
from fastgradnorm._schemes import Scored
from fastgradnorm._witness.disagreements import compare
from fastgradnorm._witness.disturbed import Disturbed
from fastgradnorm._witness.logits import agree, check_rows, seen_logits, tell_carried
from fastgradnorm._witness.loss import check_company
from fastgradnorm._witness.meaning import Meaning
from fastgradnorm._witness.outputs import cut_off
from fastgradnorm._witness.own_call import OwnModel
from fastgradnorm._witness.record import Record
from fastgradnorm._witness.samples import Choice, joined, moved
from fastgradnorm._witness.seen import Seen

_ROWS = 16  # samples of one own call, at most: each costs two forward passes


@dataclass(frozen=True)
class Look:
    """Samples that are verified: which samples of its batch, and what their own call gave."""

    batch: Batch
    start: int
    logits: Tensor
    own: int | None = None  # the place of a batch's only sample, joined by one that is not of it
    also: bool = False  # by the witness of the scores that take a pass of their own
    seen: Tensor | None = None  # logits of samples alone, where scores may be made of others
    part: slice | None = None  # the caller's batch, where several came as one


@dataclass(frozen=True)
class Learnt:
    """What a witness knows of a model after some batches, for another one that goes on."""

    choice: Choice
    single: Batch | None
    apart: bool
    looked: bool
    together: bool
    also: "Learnt | None"


class Witness:
    """Verifies what an engine scores, as the option `verify` says.

    Args:
        engine: Scores the batches.

    Attributes:
        record: What was compared; None with `verify=False`.
        meaning: What outputs and inputs say, which are looked at too.
        awaited: Looks at batches whose scores are still to be compared.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.meaning = engine, Meaning(engine)
        self.awaited = 0
        asked = engine.options.verify
        mode = "sampled" if asked is True else asked
        self.record = Record(mode) if isinstance(mode, str) else None
        self._choice = Choice(mode if isinstance(mode, str) else "", engine.options.seed)
        self._own: OwnModel | None = None
        self._single: Batch | None = None  # a first batch of one, to be joined by the next
        self._plans: list[Batch] = []
        self._scoring = False  # plans that a look itself leads to are none of the pool's
        self._disturbed = Disturbed(engine)
        engine.passes.alike = lambda found, alone: agree(engine, found, alone)
        self._apart = False  # whether the model is known to give samples other logits in company
        self.also = None if engine.also is None else Witness(engine.also)
        if self.record is not None:
            engine.noticed = self._noticed
            if self.also is not None:
                self.also.record = self.record

    def learnt(self) -> Learnt:
        """What is known so far."""
        also = None if self.also is None else self.also.learnt()
        together = self.engine.passes.settings.together
        looked = self.meaning.looked
        return Learnt(self._choice, self._single, self._apart, looked, together, also)

    def go_on(self, learnt: Learnt) -> None:
        """Goes on as the next batch of the same pool would, on a model that is the same."""
        self._choice, self._single, self._apart = learnt.choice, learnt.single, learnt.apart
        self.meaning.looked = learnt.looked
        if learnt.together:
            self.engine.allow_together(True)
        if self.also is not None and learnt.also is not None:
            self.also.go_on(learnt.also)

    def look(self, batch: Batch, *, keep: bool = False, part: slice | None = None) -> list[Look]:
        """Looks at one of the caller's batches, if it is its turn, before it is scored.

        Args:
            batch: As it was read.
            keep: Whether its scores come so late that the samples must be copied.
            part: Which of its samples are the caller's batch; None: all. They are taken out only
                if they are looked at, for most of many small batches are not.

        Raises:
            UnsupportedModelError: If what is scored has no meaning, by name.
        """
        looks: list[Look] = []
        if self.record is None:
            return looks
        turn, wanted = self._turn(batch), self.meaning.wants(batch)
        if turn or wanted:
            batch, part = batch if part is None else batch.take(part), None
            with autograd_ready():
                self.engine.plan(batch)  # as scoring would: that is none of what is timed
            with self._timed():
                if wanted:
                    self.meaning.look(batch)
                looks = self._looked(batch) if turn else []
                if looks and self._is_forward_alone(batch):
                    looks = [self._compared(look) for look in looks]
                looks = [replace(look, batch=look.batch.kept()) for look in looks if keep] or looks
        if self.also is not None:
            looks += [
                replace(look, also=True) for look in self.also.look(batch, keep=keep, part=part)
            ]
        self.awaited += len(looks)
        return looks

    def count(self, scored: Scored) -> None:
        """Counts the predictions that scores were made of."""
        if self.record is not None:
            self.meaning.count(scored)

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Within it the engine scores samples of the pool, by plans that are looked at after."""
        with contextlib.nullcontext() if self.also is None else self.also.scoring():
            before, self._scoring = self._scoring, True
            try:
                yield
            finally:
                self._scoring = before
        if self._plans:
            with self._timed():
                while self._plans:
                    pair = self._plans.pop()
                    self._examine(self._look(pair, 0), None)

    def examine(self, looks: Sequence[Look], scored: Scored) -> None:
        """Compares what was seen of a batch with its scores.

        Raises:
            UnsupportedModelError: If a sample's logits depend on the others in its batch.
            VerificationError: If the engine disagrees with plain autograd.
        """
        self.awaited -= len(looks)
        for look in looks:
            if look.also and self.also is not None:  # the logits are those of the other pass
                self.also.examine([replace(look, also=False)], replace(scored, logits=None))
                continue
            with self._timed():
                self._examine(look, scored)

    def _is_forward_alone(self, batch: Batch) -> bool:
        engine = self.engine
        last = engine.options.params == "last_layer"
        return last and engine.outcome.count(engine.plan(batch)) == 0

    def _compared(self, look: Look) -> Look:
        """Samples alone beside the own call, before it is known how batches may be run."""
        apart = self.engine.making(Seen(()))
        seen = apart.score(look.batch).scores["logits"]
        agreed = apart.loop_reason is None and agree(self.engine, look.logits, seen)
        self.engine.allow_together(agreed and self._disturbed.stay(look.batch))
        return replace(look, seen=seen)

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
            with autograd_ready(), self.engine.subject.gradients_kept():
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

    def _looked(self, batch: Batch) -> list[Look]:
        """The own call on a chunk of the batch, or on all; on two samples if the batch has one."""
        engine = self.engine
        plan = engine.plan(batch)  # a model that cannot run on one sample is told by its layer
        if len(batch) > 1:
            self._single = None
            planned, count = engine.outcome.planned(plan), engine.outcome.count(plan)
            size = max(2, engine.chunks.sizes(planned, len(batch), count)[0])
            blocks = self._choice.blocks(len(batch), min(size, len(batch), _ROWS))
            return [self._look(batch.take(block), block.start) for block in blocks]
        before = None if self._single is None else joined(self._single, batch)
        self._single = None if self._single is not None else batch.kept()
        pairs = [(1, before)] if before is not None else []
        for own, pair in [*pairs, (0, moved(batch))]:
            try:
                return [self._look(pair, 0, own)]
            except NOT_THE_MODELS:
                raise
            except Exception as error:  # a model that takes single samples alone
                if is_out_of_memory(error):
                    raise
        return [self._look(batch, 0, own=0)]

    def _look(self, batch: Batch, start: int, own: int | None = None) -> Look:
        if self._own is None:
            self._own = OwnModel(self.engine.subject)
        try:
            logits = self._own.logits(batch)
        except Exception as error:
            error.add_note(
                f"This is the model's own call on {len(batch)} samples of a batch, made by "
                "`verify` before they are scored."
            )
            raise
        return Look(batch, start, logits, own)

    def _examine(self, look: Look, scored: Scored | None) -> None:
        assert self.record is not None and self._own is not None
        record, own, batch = self.record, self._own, look.batch
        if scored is not None and look.part is not None:
            scored = scored.take(look.part)
        record.batches += 1
        record.rows += len(batch)
        quiet = look.own is not None  # the caller's batches have one sample, which has no company
        if scored is not None and scored.logits is not None:
            scored = replace(scored, logits=scored.logits.to(look.logits.device))
        if scored is not None and look.own is None:
            scored = scored.take(slice(look.start, look.start + len(batch)))
        seen = None if scored is None or look.own is not None else scored.logits
        alone = look.seen
        if alone is not None and seen is not None:
            self._apart |= check_rows(self.engine, own, batch, alone, look.logits, record, quiet)
        if seen is None:
            seen = seen_logits(self.engine, batch) if alone is None else alone
        if scored is not None and look.own is not None and scored.logits is not None:
            seen = seen.index_put(
                (torch.tensor(look.own, device="cpu"),), scored.logits[0].to(seen)
            )
        self._apart |= check_rows(self.engine, own, batch, seen, look.logits, record, quiet)
        tell_carried(own)
        if self.engine.options.by_output:
            check_company(own, batch)
        if self._choice.mode == "all":
            groups = [list(range(i, min(i + 2, len(batch)))) for i in range(0, len(batch), 2)]
        else:
            groups = [self._choice.pair(len(batch))]
        for group in groups:
            pair = batch.take(torch.tensor(group, device=self.engine.subject.device))
            if scored is None or look.own is not None:
                made = self.engine.aside(pair)
                if scored is not None and look.own in group:
                    made = made.put(group.index(look.own), scored)
            else:
                made = scored.take(torch.tensor(group, device=_device(scored)))
            given = look.start + group[0], record, self._apart, quiet
            self._apart = compare(self.engine, own, pair, made, *given)
        self.meaning.findings.add(cut_off(own.cut_off))


def _device(scored: Scored) -> torch.device:
    return next(iter(scored.scores.values())).device
