"""A pool scored batch by batch: read, cut down to the samples that count, scored, remembered."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from fastgradnorm._engine.chunks import Limits
from fastgradnorm._engine.engine import Engine
from fastgradnorm._model.batches import Batch, Reader
from fastgradnorm._model.passage import Settings
from fastgradnorm._pool.checkpoint import Checkpoint, Entry
from fastgradnorm._pool.identity import facts
from fastgradnorm._pool.order import Draws, in_words
from fastgradnorm._pool.progress import progress_bar
from fastgradnorm._pool.samples import Pool
from fastgradnorm._process import heap
from fastgradnorm._process.states import autograd_ready
from fastgradnorm._schemes.scored import Scored
from fastgradnorm._witness.findings import Findings
from fastgradnorm._witness.witness import Witness


@dataclass(frozen=True)
class Part:
    """Scores of one batch, and which samples of the dataset they are of; None: unknown."""

    scored: Scored
    indices: Tensor | None

    def __len__(self) -> int:
        return len(next(iter(self.scored.scores.values())))


class _Taken(NamedTuple):
    """A batch, and which samples of the dataset are in it; None: unknown."""

    batch: Batch
    drawn: Tensor | None


def score_one(engine: Engine, witness: Witness, batch: Batch) -> Scored:
    """Scores of one batch, on the CPU, verified if the options say so."""
    dtype = torch.float64 if engine.subject.dtype == torch.float64 else torch.float32
    if len(batch) == 0:
        return engine.outcome.nothing(dtype)
    scored = witness.score(batch)
    return Scored(
        {name: values.to("cpu", dtype) for name, values in scored.scores.items()},
        {name: values.to("cpu", dtype) for name, values in scored.errors.items()},
    )


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
        self.meaning, self._told = self.witness.meaning, 0
        self.counted: tuple[str, ...] = ()
        self._start, self._earlier, self._earlier_pulled = time.perf_counter(), 0.0, 0
        options = self.options
        subject = engine.subject
        given = options.forward, options.mask, subject.model, options.labels
        self._reader = Reader(subject.device, *given)
        self._read = 0  # samples
        self._draws: Draws | None = None

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

    def parts(self) -> Iterator[Part]:
        """The scores of each batch, in order. Nothing of a batch is kept."""
        raws, self._draws = self.pool.open()
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(progress_bar(self.pool.total, self.options.progress))
            stack.enter_context(heap.kept(self.options.max_memory is None))
            checkpoint = None
            if self.options.checkpoint is not None:
                first = self._next(raws)
                checkpoint = stack.enter_context(self._opened(first))
                for entry in checkpoint.entries:
                    yield self._again(entry)
                    bar.update(entry.read)
                if checkpoint.finished:
                    return
                batches = self._rest(raws, first, checkpoint.entries.copy())
                checkpoint.entries.clear()
                del first  # nothing of a batch outlives it
            else:
                batches = self._all(raws)
            for taken in batches:
                start, size = self._read, len(taken.batch)
                part = self._score(taken)
                drawn = taken.drawn
                del taken
                if checkpoint is not None:
                    checkpoint.add(self._entry(start, size, part.scored, drawn))
                bar.update(size)
                yield part
            self.counted = union(self.counted, self.engine.counted)
            self.meaning.conclude()
            if checkpoint is not None:
                checkpoint.finish()

    def _score(self, taken: _Taken) -> Part:
        batch = taken.batch
        keep, indices = self._sieved(len(batch), taken.drawn)
        with autograd_ready():
            chosen = batch if keep is None else batch.take(keep.to(self.engine.subject.device))
            return Part(score_one(self.engine, self.witness, chosen), indices)

    def _sieved(self, size: int, drawn: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Of the next batch, the samples to score (None: all) and where in the pool they are."""
        start, self._read = self._read, self._read + size
        streamed = self._draws is None and self.pool.sieve is not None
        return self.pool.sieved(size, torch.arange(start, self._read) if streamed else drawn)

    def _next(self, raws: Iterator[Any]) -> _Taken | None:
        for raw in raws:
            draws = self._draws
            with autograd_ready():
                batch = self._reader.read(raw, None if draws is None else draws.size())
            return _Taken(batch, None if draws is None else draws.next(len(batch)))
        return None

    def _all(self, raws: Iterator[Any]) -> Iterator[_Taken]:
        while (taken := self._next(raws)) is not None:
            yield taken
            del taken  # before the next one is there

    @contextlib.contextmanager
    def _opened(self, taken: _Taken | None) -> Iterator[Checkpoint]:
        assert self.options.checkpoint is not None
        first = None if taken is None else taken.batch
        drawn = None if taken is None else _out_of_sequence(taken.drawn, 0)
        with autograd_ready():
            known = facts(self.engine.subject, self.pool.total, first, drawn)
            known |= getattr(self.engine.outcome, "facts", {})
        checkpoint = Checkpoint(self.options.checkpoint, known)
        try:
            if checkpoint.entries and first is not None:
                state = checkpoint.entries[-1].state
                self.engine.chunks.resume(Limits(*state["limits"]))
                self.engine.passes.settings = Settings(**state["settings"])
                self._earlier, self._earlier_pulled = state["seconds"], state["pulled"]
                if self.witness.record is not None and state.get("verified"):
                    self.witness.record.add(state["verified"])
                if not checkpoint.finished and len(first):
                    with autograd_ready():
                        self.engine.plan(first)  # by the same sample as then
            yield checkpoint
        finally:
            checkpoint.close()

    def _entry(self, start: int, read: int, scored: Scored, drawn: Tensor | None) -> Entry:
        columns = {f"score {name}": values for name, values in scored.scores.items()}
        columns |= {f"error {name}": values for name, values in scored.errors.items()}
        state: dict[str, Any] = {"seconds": self.seconds, "pulled": self.pulled}
        state["verified"] = self.verified
        # What bits depend on: how batches are cut, and how the model is run.
        state["limits"] = list(self.engine.chunks.limits)
        state["settings"] = asdict(self.engine.passes.settings)
        if (drawn := _out_of_sequence(drawn, start)) is not None:
            columns["indices"] = drawn
        if self.lost is not None:
            state["lost"] = self.lost
        counted = union(self.counted, self.engine.counted)
        if counted != self.counted:
            state["counted"] = list(counted)
            self.counted = counted
        if len(found := self.findings.plain()) > self._told:
            state["findings"], self._told = found, len(found)
        return Entry(read, columns, state)

    def _again(self, entry: Entry) -> Part:
        """What an earlier process scored."""
        _, indices = self._sieved(entry.read, self._drawn(entry, self._read))
        self.counted = union(self.counted, entry.state.get("counted", ()))
        self.findings.remember(entry.state.get("findings", ()))
        self._told = len(self.findings.plain())
        by_kind: dict[str, dict[str, Tensor]] = {"score": {}, "error": {}, "indices": {}}
        for key, values in entry.columns.items():
            kind, _, name = key.partition(" ")
            by_kind[kind][name] = values
        return Part(Scored(by_kind["score"], by_kind["error"]), indices)

    def _drawn(self, entry: Entry, start: int) -> Tensor | None:
        """Which samples of the dataset an earlier process drew, where that is known."""
        if self._draws is None:
            return None
        if "lost" in entry.state:
            self._draws.lose(entry.state["lost"])
            return None
        return entry.columns.get("indices", torch.arange(start, start + entry.read))

    def _rest(
        self, raws: Iterator[Any], first: _Taken | None, done: Sequence[Entry]
    ) -> Iterator[_Taken]:
        """What is left after what is done, read again only where it must be."""
        jumped = self.pool.after([entry.read for entry in done])
        if jumped is not None:
            self._draws = jumped.draws
            return self._all(jumped.batches)
        return self._past(raws, first, done)

    def _past(
        self, raws: Iterator[Any], taken: _Taken | None, done: Sequence[Entry]
    ) -> Iterator[_Taken]:
        start = 0
        for number, entry in enumerate(done):
            found = None if taken is None else len(taken.batch)
            here, there = None if taken is None else taken.drawn, self._drawn(entry, start)
            start += entry.read
            if found != entry.read:
                self._refuse(
                    f"batch {number} has {entry.read} samples; here it has {found or 'none'}"
                )
            if here is not None and there is not None and not torch.equal(here, there):
                self._refuse(
                    f"batch {number} has the samples {in_words(there.tolist())} of the dataset; "
                    f"here it has {in_words(here.tolist())}. Give a sampler that draws at random a "
                    "`generator` of one seed"
                )
            taken = self._next(raws)
        if taken is not None:
            yield taken
            del taken
            yield from self._all(raws)

    def _refuse(self, differs: str) -> NoReturn:
        raise ValueError(
            f"`checkpoint` must be of the same pool. Got {str(self.options.checkpoint)!r}, whose "
            f"{differs}. Use another path, or delete it to start anew."
        )


def _out_of_sequence(drawn: Tensor | None, start: int) -> Tensor | None:
    """Indices that are not those from `start` on."""
    if drawn is None or torch.equal(drawn, torch.arange(start, start + len(drawn))):
        return None
    return drawn


def union(first: tuple[str, ...], second: Any) -> tuple[str, ...]:
    """Names of both, each once, in order."""
    return tuple(dict.fromkeys([*first, *second]))
