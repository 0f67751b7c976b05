"""What the events of a campaign add up to."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastgradnorm import ArgumentError

# In place of a batch's id, which is 1 or more, at labels that nobody was asked for.
BEFORE = 0


@dataclass
class Batch:
    """Keys that people were asked to label.

    Attributes:
        id: Counted from 1.
        keys: Best first.
        records: Of each key, why it was chosen.
        predicted: Of some keys of the pool, the class that the model predicted when it asked.
        samples: Of the pool when it was asked.
        k: How many were asked for.
        strategy: Of the choice; None: its line does not say.
        seed: As the strategy.
        root: The folder that keys are paths within, if they are.
        released: Whether what has no answer may be asked again.
    """

    id: int
    keys: tuple[str, ...]
    records: tuple[Mapping[str, Any], ...]
    predicted: Mapping[str, int]
    samples: int
    k: int
    strategy: str | None = None
    seed: int | None = None
    root: str | None = None
    released: bool = False


@dataclass
class State:
    """Of a campaign, now.

    Attributes:
        batches: By id, in the order they were asked.
        answers: The latest by batch and key; None where it was skipped. Labels that were there
            before they were asked for are of batch `BEFORE`.
        latest: The latest by key, whichever batch it was told for.
        samples: Of the pool when it was last seen.
    """

    batches: dict[int, Batch] = field(default_factory=dict)
    answers: dict[tuple[int, str], Any] = field(default_factory=dict)
    latest: dict[str, Any] = field(default_factory=dict)
    samples: int = 0

    @property
    def labelled(self) -> dict[str, Any]:
        """Labels by key."""
        return {key: label for key, label in self.latest.items() if label is not None}

    @property
    def skipped(self) -> list[str]:
        """Keys that people would not label."""
        return [key for key, label in self.latest.items() if label is None]

    @property
    def next_id(self) -> int:
        """Of a new batch: no id comes twice, though lines were deleted from the file."""
        told = (batch for batch, _ in self.answers)
        return 1 + max((*self.batches, *told), default=0)

    @property
    def open(self) -> Batch | None:
        """The batch that still waits for answers."""
        for batch in reversed(self.batches.values()):
            if not batch.released and self.waiting(batch):
                return batch
        return None

    def is_news(self, batch: int, key: str, label: Any) -> bool:
        """Whether an answer is another than the last one for that batch and key."""
        if (batch, key) not in self.answers:
            return True
        # In JSON 1 is neither true nor 1.0.
        known, given = (json.dumps(x, sort_keys=True) for x in (self.answers[batch, key], label))
        return known != given

    def waiting(self, batch: Batch) -> tuple[str, ...]:
        """Its keys without an answer."""
        return tuple(key for key in batch.keys if key not in self.latest)


def state_of(events: Iterable[Mapping[str, Any]]) -> State:
    """The state after these events; unknown ones, of a later version, are left out."""
    state = State()
    for event in events:
        if event["event"] in ("ask", "tell"):
            state.samples = event.get("samples", state.samples)
        if event["event"] == "ask":
            batch = Batch(
                event["batch"],
                tuple(event["keys"]),
                tuple(event["records"]),
                event["predicted"],
                event["samples"],
                event.get("k", len(event["keys"])),
                event.get("strategy"),
                event.get("seed"),
                event.get("root"),
            )
            state.batches[batch.id] = batch
        elif event["event"] == "tell":
            for key, answer in event["answers"].items():
                state.answers[event["batch"], key] = answer
                state.latest[key] = answer
        elif event["event"] == "release" and event["batch"] in state.batches:
            state.batches[event["batch"]].released = True  # else the line that asked was deleted
    return state


def batch_of(state: State, number: Any) -> Batch:
    """The batch of a number; raises `ValueError` if there is none."""
    if number not in state.batches:
        raise ArgumentError(
            f"`batch` must be one that was asked. Got {number!r}; there are "
            f"{', '.join(map(str, state.batches)) or 'none'}.",
            "batch",
        )
    return state.batches[number]
