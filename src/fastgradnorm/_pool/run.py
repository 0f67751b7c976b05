"""A pool scored batch by batch: read, cut down to the samples that count, scored, remembered."""

import contextlib
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from fastgradnorm._engine.chunks import Limits
from fastgradnorm._engine.engine import Engine
from fastgradnorm._engine.verify import verify
from fastgradnorm._errors import SlowPathWarning
from fastgradnorm._model.batches import Batch, Reader
from fastgradnorm._model.passage import Settings
from fastgradnorm._pool.checkpoint import Checkpoint, Entry
from fastgradnorm._pool.identity import facts
from fastgradnorm._pool.samples import Pool
from fastgradnorm._process import heap
from fastgradnorm._process.memory import is_out_of_memory
from fastgradnorm._process.states import autograd_ready
from fastgradnorm._schemes.objective import Scored


@dataclass(frozen=True)
class Part:
    """Scores of one batch, and where in the pool its samples are; None: in the order they come."""

    scored: Scored
    indices: Tensor | None

    def __len__(self) -> int:
        return len(next(iter(self.scored.scores.values())))


def score_one(engine: Engine, batch: Batch) -> Scored:
    """Scores of one batch, on the CPU; the first samples are verified if the options say so."""
    dtype = torch.float64 if engine.subject.dtype == torch.float64 else torch.float32
    if len(batch) == 0:
        return engine.outcome.nothing(dtype)
    if engine.options.verify:
        _verify(engine, batch)
    scored = engine.score(batch)
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
        seconds: Spent so far, earlier processes included.
        pulled: Pull-backs so far where their number depends on the sample, likewise.
    """

    def __init__(self, engine: Engine, pool: Pool) -> None:
        self.engine, self.pool, self.options = engine, pool, engine.options
        self.subject = engine.subject
        self.counted: tuple[str, ...] = ()
        self._start, self._earlier, self._earlier_pulled = time.perf_counter(), 0.0, 0
        options = self.options
        self._reader = Reader(engine.subject.device, options.forward, options.mask)
        self._read = 0  # samples

    @property
    def seconds(self) -> float:
        """Spent so far, earlier processes included."""
        return self._earlier + time.perf_counter() - self._start

    @property
    def pulled(self) -> int:
        """Pull-backs so far where their number depends on the sample."""
        return self._earlier_pulled + self.engine.outcome.pulled

    def parts(self) -> Iterator[Part]:
        """The scores of each batch, in order. Nothing of a batch is kept."""
        raws = iter(self.pool.loader)
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
                batches = self._rest(raws, first, [entry.read for entry in checkpoint.entries])
                checkpoint.entries.clear()
                del first  # nothing of a batch outlives it
            else:
                batches = self._all(raws)
            for batch in batches:
                part, size = self._score(batch), len(batch)
                del batch
                if checkpoint is not None:
                    checkpoint.add(self._entry(size, part.scored))
                bar.update(size)
                yield part
            self.counted = union(self.counted, self.engine.counted)
            if checkpoint is not None:
                checkpoint.finish()

    def _score(self, batch: Batch) -> Part:
        keep, indices = self.pool.places(self._read, len(batch))
        self._read += len(batch)
        with autograd_ready():
            chosen = batch if keep is None else batch.take(keep.to(self.engine.subject.device))
            return Part(score_one(self.engine, chosen), indices)

    def _next(self, raws: Iterator[Any]) -> Batch | None:
        for raw in raws:
            with autograd_ready():
                return self._reader.read(raw)
        return None

    def _all(self, raws: Iterator[Any]) -> Iterator[Batch]:
        while (batch := self._next(raws)) is not None:
            yield batch
            del batch  # before the next one is there

    @contextlib.contextmanager
    def _opened(self, first: Batch | None) -> Iterator[Checkpoint]:
        assert self.options.checkpoint is not None
        with autograd_ready():
            known = facts(self.engine.subject, self.pool, first)
        checkpoint = Checkpoint(self.options.checkpoint, known)
        try:
            if checkpoint.entries and first is not None:
                state = checkpoint.entries[-1].state
                self.engine.chunks.resume(Limits(*state["limits"]))
                self.engine.passes.settings = Settings(**state["settings"])
                self._earlier, self._earlier_pulled = state["seconds"], state["pulled"]
                if not checkpoint.finished and len(first):
                    with autograd_ready():
                        self.engine.plan(first)  # by the same sample as then
            yield checkpoint
        finally:
            checkpoint.close()

    def _entry(self, read: int, scored: Scored) -> Entry:
        columns = {f"score {name}": values for name, values in scored.scores.items()}
        columns |= {f"error {name}": values for name, values in scored.errors.items()}
        state: dict[str, Any] = {"seconds": self.seconds, "pulled": self.pulled}
        # What bits depend on: how batches are cut, and how the model is run.
        state["limits"] = list(self.engine.chunks.limits)
        state["settings"] = asdict(self.engine.passes.settings)
        counted = union(self.counted, self.engine.counted)
        if counted != self.counted:
            state["counted"] = list(counted)
            self.counted = counted
        return Entry(read, columns, state)

    def _again(self, entry: Entry) -> Part:
        """What an earlier process scored."""
        _, indices = self.pool.places(self._read, entry.read)
        self._read += entry.read
        self.counted = union(self.counted, entry.state.get("counted", ()))
        by_kind: dict[str, dict[str, Tensor]] = {"score": {}, "error": {}}
        for key, values in entry.columns.items():
            kind, _, name = key.partition(" ")
            by_kind[kind][name] = values
        return Part(Scored(by_kind["score"], by_kind["error"]), indices)

    def _rest(self, raws: Iterator[Any], first: Batch | None, sizes: list[int]) -> Iterator[Batch]:
        """What is left after batches of these sizes, read again only where they must be."""
        jumped = self.pool.after(sizes)
        if jumped is not None:
            return self._all(jumped)
        return self._past(raws, first, sizes)

    def _past(self, raws: Iterator[Any], first: Batch | None, sizes: list[int]) -> Iterator[Batch]:
        batch = first
        for number, size in enumerate(sizes):
            found = None if batch is None else len(batch)
            if found != size:
                raise ValueError(
                    f"`checkpoint` must be of the same pool. Got {str(self.options.checkpoint)!r}, "
                    f"whose batch {number} has {size} samples; here it has {found or 'none'}. Use "
                    "another path, or delete it to start anew."
                )
            batch = self._next(raws)
        if batch is not None:
            yield batch
            del batch, first
            yield from self._all(raws)


def _verify(engine: Engine, batch: Batch) -> None:
    try:
        verify(engine, batch)
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    warnings.warn(
        "The first samples could not be verified: there is no memory for the plain gradients that "
        "are compared with. verify=False leaves that out.",
        SlowPathWarning,
        stacklevel=2,
    )


def union(first: tuple[str, ...], second: Any) -> tuple[str, ...]:
    """Names of both, each once, in order."""
    return tuple(dict.fromkeys([*first, *second]))


@contextlib.contextmanager
def progress_bar(total: int | None, wanted: bool | None) -> Iterator[Any]:
    """A bar over so many samples, if it is wanted."""
    # disable=None: shown where standard error is a terminal
    disable = None if wanted is None else not wanted
    with tqdm(total=total, desc="scoring", unit=" samples", disable=disable) as bar:
        yield bar
