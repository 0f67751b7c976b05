"""Ask and tell."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastgradnorm import ArgumentError, ArgumentTypeError, acquire
from fastgradnorm.active.campaign._journal import Event, Journal
from fastgradnorm.active.campaign._samples import (
    batch_number,
    groups_of,
    is_table,
    keyed,
    keys_of,
    part_of,
    watched,
)
from fastgradnorm.active.campaign._state import Batch, State, batch_of, state_of
from fastgradnorm.active.campaign._status import Status, status_of


@dataclass(frozen=True)
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


class Campaign:
    """Rounds of labels from people: ask for a batch, tell the answers as they come.

    All state is JSON lines in `folder/campaign.jsonl`: it survives a kill at any moment (a last
    line that was cut off is left out and told), and several processes may use it at once.

    Args:
        folder: Of the campaign; made if it is not there.
        pool: A map-style dataset. It may have grown since the last time, in any order: samples go
            by their keys. None: for all but asking.
        key: The key of each sample: a sequence, or a function of its index. Keys are kept as text,
            and must differ.

    Raises:
        ValueError: If keys are equal, not as many as samples, or the file is damaged.
        TypeError: If `pool` is no map-style dataset.
        OSError: If the folder cannot be made or its file not be read.

    Guarantees:
        - `ask` gives the same batch until each of its samples is answered or gone from the pool, or
          the batch is released.
        - No sample with an answer, also a skipped one, is asked again.
        - `tell` counts an answer once, however often it is told; of several, the last counts.
    """

    def __init__(
        self,
        folder: str | Path,
        pool: Any = None,
        key: Sequence[Any] | Callable[[int], Any] | None = None,
    ) -> None:
        if pool is None:
            pool, key = (), ()
        if is_table(pool) or not (hasattr(pool, "__getitem__") and hasattr(pool, "__len__")):
            raise ArgumentTypeError(
                "`pool` must be a dataset with a length and indices. Got "
                f"{type(pool).__name__}. Samples go by their keys, one an index.",
                "pool",
            )
        self.pool, self.keys = pool, keys_of(key, len(pool))
        self._places = {name: i for i, name in enumerate(self.keys)}
        self._journal = Journal(Path(folder))
        self._journal.events()  # a damaged file is told now

    def ask(
        self,
        k: int,
        model: nn.Module,
        *,
        strategy: str = "auto",
        seed: int = 0,
        groups: Any = None,
        **options: Any,
    ) -> Asked:
        """The batch to label: the open one, or `k` samples chosen by `fastgradnorm.acquire`.

        Args:
            k: How many, where no batch is open.
            model: Trained on what is labelled.
            strategy: As in `acquire`.
            seed: Of everything random; each batch has one of its own that follows from it.
            groups: As in `acquire`, over the whole pool.
            options: Further arguments of `acquire`.

        Raises:
            ValueError: If fewer than `k` are left, there is no pool, and as told at `acquire`.
        """
        if "labelled" in options:
            raise ArgumentTypeError(
                "`labelled` must be left out for `ask`: a campaign knows what is labelled. Leave "
                "what had labels before it out of its `pool`.",
                "labelled",
            )
        if not self.keys:
            raise ArgumentError(
                "`pool` must be given to the campaign to ask. Got no samples.", "pool"
            )
        with self._journal.alone():
            state = self._state()
            batch = self._open(state)
            if batch is None:
                chosen = self._choose(state, k, model, strategy, seed, groups, options)
                state = state_of(self._journal.append(lambda events: self._new(events, chosen)))
                batch = next(reversed(state.batches.values()))
            return self._asked(state, batch)

    def tell(self, batch: Asked | int, answers: Mapping[Any, Any]) -> int:
        """Takes answers: labels by key, None for what people would not label.

        Some of a batch's, late ones, the same again and corrected ones are all taken. Labels are
        what JSON can hold.

        Args:
            batch: The one asked, or its id.
            answers: Labels by key.

        Returns:
            How many were new or other than before.

        Raises:
            ValueError: If there is no such batch, or it has no such key; nothing is taken then.
            TypeError: If JSON cannot hold a label.
            OSError: If the file cannot be written; nothing is taken then.
        """
        number = batch_number(batch)
        if not isinstance(answers, Mapping):
            how = " Pass `answers.to_dict()`." if hasattr(answers, "to_dict") else ""
            raise ArgumentTypeError(
                f"`answers` must be labels by key. Got {type(answers).__name__}. "
                f"Skipped ones are None.{how}",
                "answers",
            )
        given = keyed(answers)
        taken: dict[str, Any] = {}

        def make(events: list[Event]) -> Event | None:
            state = state_of(events)
            known = batch_of(state, number)
            strange = [key for key in given if key not in known.keys]
            if strange:
                raise ArgumentError(
                    f"`answers` must be of batch {number}. Got {strange[0]!r}, which is not in it.",
                    "answers",
                )
            taken.update({k: v for k, v in given.items() if state.is_news(number, k, v)})
            if not taken:
                return None
            return {"event": "tell", "batch": number, "answers": taken, "time": _now()}

        self._journal.append(make)
        return len(taken)

    def release(self, batch: Asked | int) -> int:
        """Gives up on what has no answer in a batch: it may be asked again. Answers stay.

        Returns:
            How many have none.
        """
        number = batch_number(batch)
        left = 0

        def make(events: list[Event]) -> Event | None:
            nonlocal left
            state = state_of(events)
            known = batch_of(state, number)
            left = len(state.waiting(known))
            return None if known.released else {"event": "release", "batch": number, "time": _now()}

        self._journal.append(make)
        return left

    @property
    def labelled(self) -> dict[str, Any]:
        """Labels by key, also of samples that are not in the pool any more."""
        return self._state().labelled

    @property
    def unlabelled(self) -> list[str]:
        """Keys of the pool without an answer, in its order."""
        known = self._state().latest
        return [key for key in self.keys if key not in known]

    @property
    def progress(self) -> tuple[int, int]:
        """How many samples of the pool have a label, and how many it has."""
        known = self._state().labelled
        return sum(key in known for key in self.keys), len(self.keys)

    def status(self) -> Status:
        """How far it is, how predictions changed from round to round, and a hint when to stop."""
        state = self._state()
        last = next(reversed(state.batches.values()), None)
        known = 0 if last is None else last.samples
        nothing_left = bool(self.keys) and not any(key not in state.latest for key in self.keys)
        return status_of(state, len(self.keys) or known, nothing_left)

    def training_set(self) -> list[tuple[int, Any]]:
        """(Index in the pool, label) of what is labelled, in the pool's order."""
        known = self._state().labelled
        return [(i, known[key]) for i, key in enumerate(self.keys) if key in known]

    def _state(self) -> State:
        return state_of(self._journal.events())

    def _choose(
        self,
        state: State,
        k: int,
        model: nn.Module,
        strategy: str,
        seed: int,
        groups: Any,
        options: dict[str, Any],
    ) -> Event:
        """The event of a new batch."""
        skipped = {*state.skipped}
        kept = [i for i, key in enumerate(self.keys) if key not in skipped]
        if not kept:
            told = f"`pool` must have samples without an answer. All {len(self.keys)} were skipped."
            raise ArgumentError(told, "pool")
        places = {self.keys[i]: place for place, i in enumerate(kept)}
        if groups is not None:
            groups = groups_of(groups, kept, len(self.keys))
        made = acquire(
            model,
            part_of(self.pool, kept),
            k,
            labelled=[places[key] for key in state.labelled if key in places],
            strategy=strategy,
            seed=seed + len(state.batches),
            groups=groups,
            **options,
        )
        return {
            "event": "ask",
            "keys": [self.keys[kept[i]] for i in made],
            "records": [{**row, "index": kept[row["index"]]} for row in made.records],
            "samples": len(self.keys),
            "predicted": watched([self.keys[i] for i in kept], made),
            "strategy": strategy,
            "seed": int(seed),
            "time": _now(),
        }

    def _new(self, events: list[Event], chosen: Event) -> Event:
        """The same without what was answered meanwhile, with an id."""
        state = state_of(events)
        rows = zip(chosen["keys"], chosen["records"], strict=True)
        left = [(key, row) for key, row in rows if key not in state.latest]
        keys, records = [key for key, _ in left], [row for _, row in left]
        return {**chosen, "batch": state.next_id, "keys": keys, "records": records}

    def _open(self, state: State) -> Batch | None:
        """The latest batch that waits for a sample which is still in the pool."""
        for batch in reversed(state.batches.values()):
            if not batch.released and any(key in self._places for key in state.waiting(batch)):
                return batch
        return None

    def _asked(self, state: State, batch: Batch) -> Asked:
        pairs = zip(batch.keys, batch.records, strict=True)
        here = [(key, row) for key, row in pairs if key in self._places]
        return Asked(
            batch.id,
            tuple(key for key, _ in here),
            tuple(self._places[key] for key, _ in here),
            tuple({**row, "index": self._places[key]} for key, row in here),
            tuple(key for key in state.waiting(batch) if key in self._places),
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
