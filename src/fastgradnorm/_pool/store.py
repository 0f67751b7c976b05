"""A run's checkpoint: what is written of each stretch of samples, and what was there of them."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from fastgradnorm._engine import Engine, Limits
from fastgradnorm._errors import ArgumentError
from fastgradnorm._model import Batch, Settings
from fastgradnorm._pool.checkpoint import Checkpoint, Entry
from fastgradnorm._pool.earlier import Earlier, earlier
from fastgradnorm._pool.gather import Gathering
from fastgradnorm._pool.order import in_words
from fastgradnorm._process import autograd_ready
from fastgradnorm._schemes import Scored
from fastgradnorm._witness import Findings


class Store:
    """What was scored, in a file, if there is to be one.

    Args:
        path: Of the file; None: nothing is stored.
        engine: What scores.
        gathering: How its samples are put together.

    Attributes:
        done: What was there.
        finished: Whether that was all.
    """

    def __init__(self, path: str | Path | None, engine: Engine, gathering: Gathering) -> None:
        self._path, self._engine, self._gathering = path, engine, gathering
        self._file: Checkpoint | None = None
        self.done, self.finished = Earlier(), False
        # What was told already: samples read, shapes, findings, parameters.
        self._read = self._shapes = self._findings = 0
        self._counted: tuple[str, ...] = ()

    @contextlib.contextmanager
    def opened(self, facts: dict[str, Any], first: Batch | None) -> Iterator[None]:
        """Opens the file of a run with these facts, and goes on as it was left.

        Args:
            facts: What its scores depend on.
            first: Its first batch.
        """
        assert self._path is not None
        self._file = Checkpoint(self._path, facts)
        try:
            self.done = done = earlier(self._file.entries)
            self._file.entries.clear()
            self.finished = self._file.finished
            self._read, self._shapes = done.read, len(done.sizes.chunks)
            self._findings, self._counted = len(done.findings), done.counted
            self._gathering.resume(done.sizes, done.count)
            if first is not None:
                self._gathering.trimming.begin(first)
            if done.state and first is not None:
                self._engine.chunks.resume(Limits(*done.state["limits"]))
                self._engine.passes.settings = Settings(**done.state["settings"])
                if not self.finished and len(first):
                    with autograd_ready():
                        self._engine.plan(first)  # by the same sample as then
            yield
        finally:
            self._file.close()

    def add(
        self,
        scored: Scored,
        stretch: tuple[int, int],
        indices: Tensor | None,
        ends: list[int],
        state: dict[str, Any],
        findings: Findings,
        counted: tuple[str, ...],
    ) -> None:
        """Writes the scores of one more stretch of samples.

        Args:
            scored: Their scores.
            stretch: Number of the first one, and how many were read with the last one.
            indices: Which samples of the dataset they are; None: unknown.
            ends: Numbers after the last samples of the batches that ended since.
            state: How the run stands.
            findings: All that was noticed so far.
            counted: The parameters counted so far.
        """
        if self._file is None:
            return
        start, read = stretch
        columns = {f"score {name}": values for name, values in scored.scores.items()}
        columns |= {f"error {name}": values for name, values in scored.errors.items()}
        if (moved := out_of_sequence(indices, start)) is not None:
            columns["indices"] = moved
        # What bits depend on: how samples are put together, and how the model is run.
        sizes = self._gathering.sizes
        state |= {
            "limits": list(self._engine.chunks.limits),
            "sizes": sizes.plain(self._shapes),
            "settings": asdict(self._engine.passes.settings),
            "ends": ends,
            "traced": indices is not None,
        }
        if counted != self._counted:
            state["counted"] = list(counted)
        if len(found := findings.plain()) > self._findings:
            state["findings"] = found
        more, self._read, self._shapes = read - self._read, read, len(sizes.chunks)
        self._findings, self._counted = len(found), counted
        self._file.add(Entry(more, columns, state))

    def finish(self, read: int) -> None:
        """Notes that all is scored, after so many samples were read."""
        if read < self.done.read:
            self._refuse(f"first {self.done.read} samples were scored; here it has {read}")
        if self._file is not None:
            self._file.finish()

    def compare(self, drawn: Tensor | None, start: int) -> None:
        """Refuses samples, from number `start` on, that are others than were scored there."""
        there = self.done.indices
        if drawn is None or there is None:
            return
        there = there[start : start + len(drawn)]
        here = drawn[: len(there)]
        if not torch.equal(here, there):
            self._refuse(
                f"samples from number {start} on are {in_words(there.tolist())} of the dataset; "
                f"here they are {in_words(here.tolist())}. Give a sampler that draws at random a "
                "`generator` of one seed"
            )

    def _refuse(self, differs: str) -> NoReturn:
        raise ArgumentError(
            f"`checkpoint` must be of the same pool. Got {str(self._path)!r}, whose {differs}. "
            "Use another path, or delete it to start anew.",
            "checkpoint",
        )


def out_of_sequence(drawn: Tensor | None, start: int) -> Tensor | None:
    """Indices that are not those from `start` on."""
    if drawn is None or torch.equal(drawn, torch.arange(start, start + len(drawn), device="cpu")):
        return None
    return drawn
