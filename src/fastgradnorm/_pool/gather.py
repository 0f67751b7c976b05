"""Samples gathered over a loader's batches: as many of one shape as a chunk is planned for.

Where one chunk ends depends on the samples' numbers alone: it has the planned size, counted from
the beginning of a window of samples, and at a window's end all that wait are scored. So batches of
any size give the same chunks, and the same bits. Samples wait in copies, because loaders may write
their next batch where this one was.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch

from fastgradnorm._engine import Engine
from fastgradnorm._errors import LabelError
from fastgradnorm._model import Batch, Given
from fastgradnorm._pool.alike import bytes_of, is_plain, shape_of
from fastgradnorm._pool.scored import score_one
from fastgradnorm._pool.trimming import Trimming, is_harmless, stretches
from fastgradnorm._process import autograd_ready, tensors_ready
from fastgradnorm._schemes import Scored
from fastgradnorm._witness import Witness

# A window is so many chunks of the first shape, and about so many samples at least and at most.
_CHUNKS, _LEAST, _SAMPLES = 32, 512, 1 << 12


@dataclass
class Sizes:
    """How samples are gathered: planned once for a run, and gone on with.

    Attributes:
        window: Samples after which none may wait; None: not planned yet.
        held: Bytes of samples that may wait.
        chunks: Samples of a chunk, by shape.
        trims: Whether padding is left out; None: there was none yet.
    """

    window: int | None = None
    held: int = 0
    chunks: dict[str, int] = field(default_factory=dict)
    trims: bool | None = None

    def plain(self, known: int = 0) -> dict[str, Any]:
        """As JSON can hold it, without the first so many chunks."""
        chunks = list(self.chunks.items())[known:]
        told = {"window": self.window, "held": self.held, "trims": self.trims}
        return {**told, "chunks": dict(chunks)}

    def resume(self, told: dict[str, Any]) -> None:
        """Adds what an earlier process has planned."""
        self.window, self.held, self.trims = told["window"], told["held"], told["trims"]
        self.chunks.update(told["chunks"])


@dataclass
class _Group:
    """Samples of one shape that wait for more.

    Attributes:
        run: What the model is given beside them.
        size: How many are a chunk.
        latest: What was found to be like `run` last.
        parts: Those that wait.
        numbers: Theirs, from one to before another.
        count: How many wait.
        bytes: What they take.
    """

    run: Given
    size: int
    latest: Given | None = None
    parts: list[Batch] = field(default_factory=list)
    numbers: list[tuple[int, int]] = field(default_factory=list)
    count: int = 0
    bytes: int = 0

    def add(self, part: Batch, start: int, each: int) -> None:
        self.parts.append(part)
        self.numbers.append((start, start + len(part)))
        self.count += len(part)
        self.bytes += len(part) * each

    def clear(self) -> None:
        self.parts, self.numbers, self.count, self.bytes = [], [], 0, 0


class Gathering:
    """Scores batch after batch, in chunks that do not end where these do.

    Args:
        engine: What scores.
        witness: Looks at plans that are made meanwhile.
        gathers: Whether samples may wait for those of later batches.

    Attributes:
        number: Of samples added so far.
        sizes: Planned so far.
        trimming: How long texts are scored.
        apart: Why batches were scored each by itself, if some were.
        at: Numbers of the samples that are looked at or scored, from one to before another.
    """

    def __init__(self, engine: Engine, witness: Witness, gathers: bool = True) -> None:
        self.engine, self.witness, self._gathers = engine, witness, gathers
        self.number = 0
        self.sizes, self.trimming = Sizes(), Trimming(engine, witness)
        self.apart: str | None = None
        self.at: list[tuple[int, int]] = []
        self._groups: dict[str, _Group] = {}
        self._waiting = 0  # bytes
        self._shapes: dict[Any, str] = {}
        self._found: list[tuple[list[tuple[int, int]], Scored]] = []

    def resume(self, sizes: Sizes, number: int) -> None:
        """Goes on after so many samples, none of which waits."""
        self.sizes, self.number = sizes, number

    def add(self, batch: Batch, each: int | None = None) -> Iterator[Scored]:
        """Yields scores of all samples up to one after which none waits, in order.

        Args:
            batch: More samples.
            each: How many a batch of the caller's has, of which these are several; None: one.
        """
        if self.number == 0:
            self.engine.singles = True
        self.engine.singles &= (each or len(batch)) <= 1
        fitted = self.trimming.fitted(batch) if self._gathers and len(batch) else None
        if fitted is not None and self.sizes.trims is None:
            asked = self.witness.record is not None
            self.sizes.trims = is_harmless(self.engine, *fitted) if asked else False
        if fitted is None or not self.sizes.trims:
            yield from self._add(batch)
            return
        self.trimming.plan(fitted[0])
        for part in stretches(*fitted):
            yield from self._add(part)

    def _add(self, batch: Batch) -> Iterator[Scored]:
        """Samples of one shape."""
        if len(batch) == 0:
            return
        self.at = [(self.number, self.number + len(batch))]
        group = self._group(batch) if self._gathers else None
        if group is None:
            self._score_waiting()
            self._score(batch, [(self.number, self.number + len(batch))])
            self.number += len(batch)
            yield from self._in_order()
            return
        start, size, each = 0, len(batch), bytes_of(batch)
        while start < size:
            room = self._room(each)
            if room <= 0:
                self._score_waiting()
                room = self._room(each)
            count = min(size - start, group.size - group.count, room)
            part = batch if count == size else batch.take(slice(start, start + count))
            full = group.count + count == group.size
            with tensors_ready():
                group.add(part if full else part.copied(), self.number, each)
            self._waiting += count * each
            start, self.number = start + count, self.number + count
            if full:
                self._score_group(group)
            if self._room(each) <= 0:
                self._score_waiting()
            if not self._waiting:
                yield from self._in_order()

    def flush(self) -> Iterator[Scored]:
        """Scores of all that wait."""
        self._score_waiting()
        yield from self._in_order()

    def _room(self, each: int) -> int:
        """Samples of so many bytes that may be added before the waiting ones are scored."""
        assert self.sizes.window is not None
        past = self.number % self.sizes.window
        if past == 0 and self._waiting:
            return 0
        most = (self.sizes.held - self._waiting) // each
        return min(self.sizes.window - past, most if self._waiting else max(1, most))

    def _group(self, batch: Batch) -> _Group | None:
        """Where its samples wait; None if they must not be mixed with those of other batches."""
        run = batch.run
        tensors = [*batch.leaves, batch.mask, batch.attention_mask, batch.target]
        if batch.labelled is not None:
            self.apart = self.apart or "the loss is given all of them"
            return None
        if not isinstance(run, Given) or not all(map(is_plain, tensors)):
            self.apart = self.apart or "they hold tensors of special kinds"
            return None
        key = tuple(None if t is None else (t.dtype, t.shape[1:]) for t in tensors)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = shape_of(batch)
        if shape not in self._groups:
            with tensors_ready():
                kept = run.kept()
            self._groups[shape] = _Group(kept, self._size(shape, batch))
        group = self._groups[shape]
        if run is not group.latest or run.kind is None:  # what is not plain may change within it
            differs = group.run.differs(run)
            if differs is not None:
                self.apart = self.apart or f"they differ in {differs}"
                return None
            group.latest = run
        if batch.target is not None:
            try:
                with autograd_ready():
                    self.engine.outcome.check(self.engine.plan(batch), batch)
            except LabelError as error:
                self.at = [(self.number + error.row, self.number + error.row + 1)]
                raise
        return group

    def _size(self, shape: str, batch: Batch) -> int:
        sizes, engine = self.sizes, self.engine
        with autograd_ready(), self.witness.scoring():
            # By the first sample of this shape. What an earlier process cut it into was planned
            # between the lengths that it had seen until then: cut no smaller.
            plan = engine.plan(batch, one_length=shape in sizes.chunks)
            if engine.also is not None:
                engine.also.plan(batch, one_length=shape in sizes.chunks)
        if shape not in sizes.chunks:
            planned, count = engine.outcome.planned(plan), engine.outcome.count(plan)
            each = bytes_of(batch)
            held = None if sizes.window is None else sizes.held
            size, held = engine.chunks.gathered(planned, count, each, held)
            sizes.chunks[shape] = size
            if sizes.window is None:
                chunks = max(_CHUNKS, -(-_LEAST // size))
                sizes.window, sizes.held = size * max(1, min(chunks, _SAMPLES // size)), held
        return sizes.chunks[shape]

    def _score_waiting(self) -> None:
        for group in self._groups.values():
            if group.count:
                self._score_group(group)

    def _score_group(self, group: _Group) -> None:
        with tensors_ready():
            batch = Batch.join(group.parts)
        batch, numbers = replace(batch, run=group.run), group.numbers
        self._waiting -= group.bytes
        group.clear()
        self._score(batch, numbers)

    def _score(self, batch: Batch, numbers: list[tuple[int, int]]) -> None:
        self.at = numbers
        with autograd_ready(), self.witness.scoring():
            scored = score_one(self.engine, batch)
        self.witness.count(scored)
        if not self.witness.awaited:
            scored = Scored(scored.scores, scored.errors)  # nobody compares the logits
        self._found.append((numbers, scored))

    def _in_order(self) -> Iterator[Scored]:
        if not self._found:
            return
        runs = [run for numbers, _ in self._found for run in numbers]
        scored = Scored.join([scored for _, scored in self._found])
        self._found = []
        if any(a[1] != b[0] for a, b in pairwise(runs)):
            numbers = torch.cat([torch.arange(a, b, device="cpu") for a, b in runs])
            scored = scored.take(numbers.argsort())
        yield scored
