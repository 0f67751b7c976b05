"""A batch as people are given it, and what is told where it was asked for otherwise."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastgradnorm.active.campaign._state import Batch, State

_SHOWN = 3  # keys of a batch that is printed


@dataclass(frozen=True, repr=False)
class Asked:
    """A batch to label.

    Attributes:
        id: To be told with the answers.
        keys: Of the samples that are in the pool, best first.
        indices: In the pool as it is now.
        records: Of each, why it was chosen; see `fastgradnorm.Selection`.
        waiting: Those of them that have no answer yet.
    """

    id: int
    keys: tuple[str, ...]
    indices: tuple[int, ...]
    records: tuple[Mapping[str, Any], ...]
    waiting: tuple[str, ...]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.keys[:_SHOWN])) + ", …" * (len(self.keys) > _SHOWN)
        open_ = f"open, {len(self.waiting)} without an answer" if self.waiting else "answered"
        several = "s" * (len(self.keys) != 1)
        return f"<batch {self.id} of {len(self.keys)} sample{several}, {open_}: {shown}>"


def open_batch(state: State, places: Mapping[str, int]) -> Batch | None:
    """The latest batch that waits for a sample which is still in the pool."""
    for batch in reversed(state.batches.values()):
        if not batch.released and any(key in places for key in state.waiting(batch)):
            return batch
    return None


def asked_of(state: State, batch: Batch, places: Mapping[str, int]) -> Asked:
    """A batch, in the pool as it is now.

    Args:
        state: Of the campaign.
        batch: One of its batches.
        places: Indices in the pool by key.
    """
    pairs = zip(batch.keys, batch.records, strict=True)
    here = [(key, row) for key, row in pairs if key in places]
    return Asked(
        batch.id,
        tuple(key for key, _ in here),
        tuple(places[key] for key, _ in here),
        tuple({**row, "index": places[key]} for key, row in here),
        tuple(key for key in state.waiting(batch) if key in places),
    )


def tell_of_open(batch: Batch, asked: Asked, k: int, strategy: str, seed: int) -> None:
    """Warns where a batch that is open is given again to who asked for another."""
    wanted = {
        "k": (k, batch.k),
        "strategy": (strategy, batch.strategy),
        "seed": (seed, batch.seed),
    }
    # A batch of an earlier version's does not say how it was asked for.
    unheard = [
        f"`{name}={now!r}`"
        for name, (now, then) in wanted.items()
        if then is not None and now != then
    ]
    if not unheard:
        return
    keys, waiting = len(asked.keys), len(asked.waiting)
    left = "" if waiting == keys else f", {waiting} of which have no answer"
    warnings.warn(
        f"Batch {batch.id} is open: its {keys} samples are given again{left}. Tell its answers, or "
        f"release it, for {' and '.join(unheard)} to take effect.",
        stacklevel=3,
    )
