"""A pool scored batch by batch: read, cut down to the samples that count, scored, remembered."""

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastgradnorm._engine import Engine
from fastgradnorm._model import Reader, Unchanged
from fastgradnorm._pool.bundles import bundled, one_by_one
from fastgradnorm._pool.draws import Draws
from fastgradnorm._pool.failing import Samples, told_when_scored
from fastgradnorm._pool.gather import Gathering
from fastgradnorm._pool.identity import facts
from fastgradnorm._pool.ledger import Ledger, Open, Part, count_of
from fastgradnorm._pool.progress import progress_bar
from fastgradnorm._pool.reading import may_come_together
from fastgradnorm._pool.samples import Pool
from fastgradnorm._pool.store import Store
from fastgradnorm._pool.taking import Taken, Taking
from fastgradnorm._process import autograd_ready, heap, in_steps, interrupts_wait
from fastgradnorm._schemes import Scored
from fastgradnorm._witness import Finding, Findings, Witness, look_at_each


class Run:
    """One pass over a pool, which may have been begun by an earlier process.

    Args:
        engine: What scores.
        pool: What is scored.

    Attributes:
        counted: Names of the parameters counted so far.
        witness: Verifies the scores.
        seconds: Spent so far, earlier processes included.
        pulled: Pull-backs so far where their number depends on the sample, likewise.
    """

    def __init__(self, engine: Engine, pool: Pool) -> None:
        self.engine, self.pool, self.options = engine, pool, engine.options
        self.subject, self.witness = engine.subject, Witness(engine)
        self.meaning, self.counted = self.witness.meaning, tuple[str, ...]()
        self._start, self._earlier, self._earlier_pulled = time.perf_counter(), 0.0, 0
        options, subject = self.options, engine.subject
        given = options.forward, options.mask, subject.model, options.labels
        read = {"forward": options.forward, "loss": options.loss}
        self._unchanged = Unchanged(subject.model, read)
        for each in filter(None, (engine, engine.also)):  # each would look for them by itself
            each.subject.own_generators = self._unchanged.generators
        self._take = Taking(Reader(subject.device, *given), self._unchanged)
        self._draws: Draws | None = None
        self._gathering = Gathering(engine, self.witness, gathers=options.latency != 0)
        self._ledger = Ledger(engine.outcome.nothing(torch.float32))
        self._store = Store(options.checkpoint, engine, self._gathering)
        self._read, self._apart = 0, True  # samples, and whether each batch is a part

    @property
    def seconds(self) -> float:
        """Spent so far, earlier processes included."""
        return self._earlier + time.perf_counter() - self._start

    @property
    def pulled(self) -> int:
        """Pull-backs so far where their number depends on the sample."""
        return self._earlier_pulled + self.engine.outcome.pulled

    @property
    def findings(self) -> Findings:
        """What was noticed so far, earlier processes included."""
        return self.meaning.findings

    @property
    def lost(self) -> str | None:
        """Why scores cannot be traced to samples, if so."""
        return None if self._draws is None else self._draws.lost

    @property
    def verified(self) -> dict[str, Any] | None:
        """What was compared with the model's own calls, earlier processes included."""
        record = self.witness.record
        return None if record is None else record.plain()

    @property
    def gathered(self) -> dict[str, Any]:
        """How samples were put together over batches."""
        sizes = self._gathering.sizes.chunks.values()
        found: dict[str, Any] = {"shapes": len(sizes), "halved": self.engine.chunks.halved}
        if sizes:
            found |= {"smallest": min(sizes), "largest": max(sizes)}
        return found | {"apart": self._gathering.apart}

    @property
    def replays(self) -> dict[str, Any]:
        """How passes were replayed by this process."""
        return self.engine.told()

    def parts(self, apart: bool = True) -> Iterator[Part]:
        """The scores of each batch, in order. Of a batch no more is kept than what must wait.

        Args:
            apart: Each batch's by themselves; else several may be one part, which takes less time.
        """
        self._apart, together = apart, not apart and may_come_together(self.options)
        raws, self._draws = self.pool.open(together)
        gathers = together and (self._draws is None or self._draws.each is None)
        items = bundled(raws) if gathers else one_by_one(raws)
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(progress_bar(self.pool.total, self.options.progress))
            stack.enter_context(heap.kept(self.options.max_memory is None))
            batches = self._all(items)
            if self.options.checkpoint is not None:
                first = self._take.next(items, self._draws)
                stack.enter_context(self._opened(first))
                for part in self._again(first):
                    yield part
                    bar.update(len(part))
                if self._store.finished:
                    return
                batches = self._rest(batches, first)
                del first  # nothing of a batch outlives it
            for taken in batches:
                size, given = len(taken.batch), map(self._given, self._added(taken))
                del taken
                for found in in_steps(given):
                    yield from found
                bar.update(size)
            for found in in_steps(map(self._given, self._flushed())):
                yield from found
            self._conclude()
            self._store.finish(self._read)

    def _conclude(self) -> None:
        self.counted = union(self.counted, self.engine.counted)
        self.meaning.conclude()
        if self._gathering.apart is not None:
            message = (
                "Samples were not gathered over batches, each of which was scored by itself: "
                f"{self._gathering.apart}. Small batches are slow then."
            )
            self.findings.add([Finding("not gathered", message, "note")])

    def _added(self, taken: Taken) -> Iterator[Scored | None]:
        """Adds a batch, and yields the scores of as many of the next samples as are there."""
        batch, drawn, read = taken.batch, taken.drawn, self._read
        if self.pool.sieve is None:
            self._store.compare(drawn, read)
        known = max(0, self._store.done.read - read)
        if self.pool.sieve is not None and known:
            batch, read, known = batch.take(slice(known, None)), read + min(known, len(batch)), 0
            drawn = None if drawn is None else drawn[len(drawn) - len(batch) :]
        self._read = read + len(batch)
        total = self.pool.total
        self.engine.expect(None if total is None else total - self._read)
        keep, indices = self._sieved(len(batch), drawn, read)
        if keep is not None:
            batch = batch.take(keep.to(self.engine.subject.device))
        start = read if self.pool.sieve is None else self._gathering.number
        end, given = start + len(batch), max(0, self._ledger.given - start)
        if given and given >= len(batch):
            return
        seen = batch.take(slice(given, None)) if given else batch
        indices = indices if indices is None else indices[given:]
        each, waits = taken.each, self.options.latency != 0
        seen_of = Open(start + given, end, indices, read + given, keep)
        with told_when_scored(lambda: self._told([(start + given, end)], [indices])):
            looks = look_at_each(self.witness, seen, each, keep=waits) if len(seen) else ()
        self._ledger.opened(replace(seen_of, looks=looks))
        del seen, taken
        with told_when_scored(self._scoring):
            rest = batch.take(slice(known, None)) if known else batch
            for scored in self._gathering.add(rest, each):
                self._unchanged.settle()
                yield scored
            self._unchanged.settle()
            latency = self.options.latency
            if latency is not None and self._ledger.waiting > latency:
                yield from self._gathering.flush()
        yield None

    def _scoring(self) -> Samples | None:
        """The samples that are scored, as `told_when_scored` takes them."""
        runs = self._gathering.at
        return self._told(runs, [self._ledger.of(*run)[0] for run in runs])

    def _told(
        self, runs: list[tuple[int, int]], indices: Sequence[Tensor | None]
    ) -> Samples | None:
        known, first = _joined(indices) if runs else None, any(run[0] == 0 for run in runs)
        if known is not None:
            return Samples(known.tolist(), self._draws is not None, first)
        if self.pool.draws is not None:  # the order of what one rank is dealt is nobody's
            return None
        return Samples([number for run in runs for number in range(*run)], False, first)

    def _flushed(self) -> Iterator[Scored]:
        with told_when_scored(self._scoring):
            yield from self._gathering.flush()

    def _given(self, scored: Scored | None) -> list[Part]:
        """The batches that are whole with some more scores."""
        ledger, found = self._ledger, list[Part]()
        start = ledger.done
        kept = scored is not None and self.options.checkpoint is not None
        if scored is not None:
            indices, read = ledger.of(start, start + count_of(scored)) if kept else (None, 0)
            ledger.add(scored)
        ends: list[int] = []
        for batches, its in ledger.parts(self._apart):
            self.witness.examine(batches[0].looks, its)
            found.append(Part(its, _joined([batch.indices for batch in batches])))
            ends += [batch.end for batch in batches]
        if scored is not None and kept:
            self.counted = union(self.counted, self.engine.counted)
            state: dict[str, Any] = {"seconds": self.seconds, "pulled": self.pulled}
            state["verified"] = self.verified
            if self.lost is not None:
                state["lost"] = self.lost
            told = ends, state, self.findings, self.counted
            self._store.add(scored, (start, read), indices, *told)
        return found

    def _sieved(
        self, size: int, drawn: Tensor | None, start: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Of the next batch, the samples to score (None: all) and where in the pool they are."""
        streamed = self._draws is None and self.pool.sieve is not None
        return self.pool.sieved(
            size, torch.arange(start, start + size, device="cpu") if streamed else drawn
        )

    def _all(self, items: Iterator[tuple[Any, int]]) -> Iterator[Taken]:
        while (taken := self._take.next(items, self._draws)) is not None:
            yield taken
            del taken  # before the next one is there

    @contextlib.contextmanager
    def _opened(self, taken: Taken | None) -> Iterator[None]:
        first, drawn = (None, None) if taken is None else (taken.batch, taken.drawn)
        with interrupts_wait(), autograd_ready():
            of = self.pool.total, first, drawn, self.pool.dataset, self.pool.loader
            known = facts(self.subject, *of) | getattr(self.engine.outcome, "facts", {})
        with self._store.opened(known, first):
            if self._store.done.state and first is not None:
                state = self._store.done.state
                self._earlier, self._earlier_pulled = state["seconds"], state["pulled"]
                self._unchanged.settle()  # it was run to be planned
                if self.witness.record is not None and state.get("verified"):
                    self.witness.record.add(state["verified"])
            yield

    def _again(self, first: Taken | None) -> Iterator[Part]:
        """What an earlier process scored, in batches of the size of the first one."""
        done, ledger, draws = self._store.done, self._ledger, self._draws
        self.counted = union(self.counted, done.counted)
        self.findings.remember(done.findings)
        if draws is not None and "lost" in done.state:
            draws.lose(done.state["lost"])
        for scored in done.scored:
            ledger.add(scored)
        done.scored.clear()
        size = None if first is None else len(first.batch)
        if self.pool.sieve is not None:
            self.pool.sieve.next(done.read)
            size = None  # batches have as many of them as it has chosen
        whole = self._store.finished or 0 < done.read == self.pool.total
        for end in [*done.cuts(size), *([done.count] if whole else [])]:
            start = ledger.given
            if end > start:
                where = None if done.indices is None else done.indices[start:end]
                yield Part(ledger.take(end), where)

    def _rest(self, batches: Iterator[Taken], first: Taken | None) -> Iterator[Taken]:
        """What is left after what is done, read again only where it must be."""
        done = self._store.done.read
        jumped = self.pool.after(done) if done else None
        if jumped is not None:
            reading, self._read = jumped
            self._draws = reading.draws
            return self._all(one_by_one(reading.batches))
        return batches if first is None else itertools.chain([first], batches)


def union(first: tuple[str, ...], second: Any) -> tuple[str, ...]:
    """Names of both, each once, in order."""
    return tuple(dict.fromkeys([*first, *second]))


def _joined(indices: Sequence[Tensor | None]) -> Tensor | None:
    """Those of several batches; None where one has none."""
    known = [each for each in indices if each is not None]
    if len(known) < len(indices):
        return None
    return known[0] if len(known) == 1 else torch.cat(known)
