"""Scores in the order of their samples, cut where the caller's batches end."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgradnorm._schemes import Scored
from fastgradnorm._witness import Look


@dataclass(frozen=True)
class Part:
    """Scores of one batch, and which samples of the dataset they are of; None: unknown."""

    scored: Scored
    indices: Tensor | None

    def __len__(self) -> int:
        return count_of(self.scored)


@dataclass(frozen=True)
class Open:
    """A batch of which not all scores are there.

    Attributes:
        start: Number of its first sample.
        end: Number after its last one.
        indices: Which samples of the dataset it has; None: unknown.
        read: Samples that were read before it.
        keep: Which of the read ones its samples are; None: all.
        looks: What was seen of it, to be compared with its scores.
    """

    start: int
    end: int
    indices: Tensor | None
    read: int
    keep: Tensor | None = None
    looks: Sequence[Look] = ()


class Ledger:
    """Takes scores as they come, in order, and gives them by batches.

    Args:
        nothing: Scores of no samples.

    Attributes:
        given: Number of the first sample that was not given yet.
        done: Number of the first sample without a score.
    """

    def __init__(self, nothing: Scored) -> None:
        self.given = self.done = 0
        self._nothing = nothing
        self._pieces: deque[Scored] = deque()
        self._open: deque[Open] = deque()

    def opened(self, batch: Open) -> None:
        """One more batch, whose first sample is the one after all before."""
        self._open.append(batch)

    def add(self, scored: Scored) -> None:
        """Scores of the next samples."""
        self._pieces.append(scored)
        self.done += count_of(scored)

    @property
    def waiting(self) -> int:
        """Samples that were read, and whose scores were not given."""
        return self._open[-1].end - self.given if self._open else 0

    def of(self, start: int, end: int) -> tuple[Tensor | None, int]:
        """Which samples of the dataset those of some numbers are, and how many were read by then.

        All of them are in batches that were not given.
        """
        indices: list[Tensor | None] = []
        read = 0
        for batch in self._open:
            a, b = max(start, batch.start), min(end, batch.end)
            if a < b:
                first, last = a - batch.start, b - batch.start - 1
                indices.append(None if batch.indices is None else batch.indices[first : last + 1])
                read = batch.read + 1 + (last if batch.keep is None else int(batch.keep[last]))
        known = [each for each in indices if each is not None]
        return torch.cat(known) if len(known) == len(indices) else None, read

    def parts(self, apart: bool) -> Iterator[tuple[list[Open], Scored]]:
        """Gives the batches of which all scores are there.

        Args:
            apart: Each by itself; else together those that nothing was seen of.
        """
        while self._is_whole():
            batches = [self._open.popleft()]
            while not (apart or batches[-1].looks) and self._is_whole() and not self._open[0].looks:
                batches.append(self._open.popleft())
            yield batches, self.take(batches[-1].end)

    def _is_whole(self) -> bool:
        return bool(self._open) and self._open[0].end <= self.done

    def take(self, end: int) -> Scored:
        """Gives the scores of the next samples, up to a number."""
        found: list[Scored] = []
        while self.given < end:
            piece = self._pieces.popleft()
            size = count_of(piece)
            count = min(end - self.given, size)
            if count < size:
                self._pieces.appendleft(piece.take(slice(count, None)))
                piece = piece.take(slice(0, count))
            found.append(piece)
            self.given += count
        if len(found) == 1 and self._in_parts(found[0]):
            return found[0].copied()  # whoever keeps it keeps nothing else
        return Scored.join(found) if found else self._nothing

    @staticmethod
    def _in_parts(piece: Scored) -> bool:
        """Whether its memory holds more than its scores."""
        values = next(iter(piece.scores.values()))
        return values.untyped_storage().nbytes() > values.nbytes


def count_of(scored: Scored) -> int:
    """How many samples scores are of."""
    return len(next(iter(scored.scores.values())))
