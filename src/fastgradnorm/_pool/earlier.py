"""What an earlier process has scored of a pool, as its checkpoint holds it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastgradnorm._pool.checkpoint import Entry
from fastgradnorm._pool.gather import Sizes
from fastgradnorm._schemes import Scored


@dataclass
class Earlier:
    """The first samples of a pool.

    Attributes:
        scored: Their scores, in order.
        count: How many they are.
        read: How many were read for them.
        indices: Which samples of the dataset they are; None: unknown.
        ends: Numbers after the last sample of each batch.
        state: How the run was left.
        sizes: How it gathered samples.
        findings: What it noticed.
        counted: The parameters it counted.
    """

    scored: list[Scored] = field(default_factory=list)
    count: int = 0
    read: int = 0
    indices: Tensor | None = None
    ends: list[int] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    sizes: Sizes = field(default_factory=Sizes)
    findings: list[dict[str, str]] = field(default_factory=list)
    counted: tuple[str, ...] = ()

    def cuts(self, first: int | None) -> Iterator[int]:
        """Where batches ended, or those of the size of the `first` one would have; None: at once.

        The numbers after the last sample of each that is whole.
        """
        if first is None:
            yield self.count
            return
        if self.ends and self.ends[0] == first:
            yield from self.ends
        elif first:
            yield from range(first, self.count + 1, first)


def earlier(entries: Sequence[Entry]) -> Earlier:
    """All entries of a checkpoint, put together."""
    found = Earlier()
    indices: list[Tensor | None] = []
    for entry in entries:
        by_kind: dict[str, dict[str, Tensor]] = {"score": {}, "error": {}, "indices": {}}
        for key, values in entry.columns.items():
            kind, _, name = key.partition(" ")
            by_kind[kind][name] = values
        scored = Scored(by_kind["score"], by_kind["error"])
        count = len(next(iter(scored.scores.values())))
        state, start = entry.state, found.count
        known = by_kind["indices"].get("", torch.arange(start, start + count, device="cpu"))
        indices.append(known if state["traced"] else None)
        found.scored.append(scored)
        found.count += count
        found.read += entry.read
        found.ends += state["ends"]
        found.sizes.resume(state["sizes"])
        found.findings += state.get("findings", [])
        found.counted = tuple(dict.fromkeys([*found.counted, *state.get("counted", ())]))
        found.state = state
    kept = [each for each in indices if each is not None]
    found.indices = torch.cat(kept) if kept and len(kept) == len(indices) else None
    return found
