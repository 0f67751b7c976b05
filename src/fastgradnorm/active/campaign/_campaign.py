"""Ask and tell."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fastgradnorm import ArgumentError, ArgumentTypeError
from fastgradnorm.active.campaign._asked import Asked, asked_of, open_batch, tell_of_open
from fastgradnorm.active.campaign._choosing import new_batch, now
from fastgradnorm.active.campaign._journal import Event, Journal
from fastgradnorm.active.campaign._naming import answers_of, like
from fastgradnorm.active.campaign._samples import batch_number, is_table, keyed, keys_of
from fastgradnorm.active.campaign._state import BEFORE, State, batch_of, state_of
from fastgradnorm.active.campaign._status import Status, status_of


class Campaign:
    """Rounds of labels from people: ask for a batch, tell the answers as they come.

    All state is JSON lines in `folder/campaign.jsonl`: it survives a kill at any moment (a last
    line that was cut off is left out and told), and several processes may use it at once.

    Args:
        folder: Of the campaign; `ask` and `add_labels` make it if it is not there.
        pool: A map-style dataset. It may have grown since the last time, in any order: samples go
            by their keys. None: for all but asking.
        key: The key of each sample: a sequence, or a function of its index. Keys are kept as text,
            and must differ.
        root: The folder that keys are paths within, if they are: answers may then name samples by
            any path that leads there. It is kept with each batch.

    Raises:
        ValueError: If keys are equal, not as many as samples, or the file is damaged. By what reads
            or answers a campaign: if none is in the folder and there is no pool to begin one of.
        TypeError: If `pool` is no map-style dataset.
        OSError: If the folder's file cannot be read.

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
        *,
        root: str | Path | None = None,
    ) -> None:
        self._folder, self._with_pool = Path(folder), pool is not None
        self._root = None if root is None else os.path.abspath(root)
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
        self._journal = Journal(self._folder)
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
            OSError: If the folder cannot be made or its file not be written.

        Warns:
            UserWarning: If the batch that is open was asked for by another `k`, `strategy` or
                `seed`.
        """
        if "labelled" in options:
            raise ArgumentTypeError(
                "`labelled` must be left out for `ask`: a campaign knows what is labelled. Labels "
                "that were there before are given to `add_labels`, by key.",
                "labelled",
            )
        if not self.keys:
            raise ArgumentError(
                "`pool` must be given to the campaign to ask. Got no samples.", "pool"
            )
        self._journal.begin()
        with self._journal.alone():
            state = self._state()
            batch = open_batch(state, self._places)
            if batch is not None:
                asked = asked_of(state, batch, self._places)
                tell_of_open(batch, asked, k, strategy, seed)
                return asked
            chosen = new_batch(
                self.pool, self.keys, state, k, model, strategy, seed, groups, options
            )
            chosen |= {"k": int(k), "root": self._root}
            state = state_of(self._journal.append(lambda events: self._new(events, chosen)))
            return asked_of(state, next(reversed(state.batches.values())), self._places)

    def add_labels(self, answers: Mapping[Any, Any]) -> int:
        """Takes labels that are there already, such as those that the model was trained on.

        Their samples are not asked for, and the choice of others starts from them. They count as
        told ones do: once, however often they are given, and of several the last. They may be given
        before the first `ask`, and later.

        Args:
            answers: Labels by key, of samples of the pool.

        Returns:
            How many were new or other than before.

        Raises:
            ValueError: If a key is not in the pool, a label is None, or there is no pool; nothing
                is taken then.
            TypeError: If JSON cannot hold a label.
            OSError: If the file cannot be written; nothing is taken then.
        """
        self._check_pool("to tell its samples from others")
        given = keyed(answers)
        empty = next((key for key, label in given.items() if label is None), None)
        if empty is not None:
            raise ArgumentError(
                f"`answers` must have labels. Got None for {empty!r}. Leave out what has no label: "
                "it may be asked for.",
                "answers",
            )
        self._journal.begin()
        return self._take(BEFORE, given, asked=False)

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
        self._check_there()
        return self._take(batch_number(batch), keyed(answers))

    def release(self, batch: Asked | int) -> int:
        """Gives up on what has no answer in a batch: it may be asked again. Answers stay.

        Returns:
            How many have none.
        """
        self._check_there()
        number = batch_number(batch)
        left = 0

        def make(events: list[Event]) -> Event | None:
            nonlocal left
            state = state_of(events)
            known = batch_of(state, number)
            left = len(state.waiting(known))
            return None if known.released else {"event": "release", "batch": number, "time": now()}

        self._journal.append(make)
        return left

    @property
    def labelled(self) -> dict[str, Any]:
        """Labels by key, also of samples that are not in the pool any more."""
        return self._state().labelled

    @property
    def unlabelled(self) -> list[str]:
        """Keys of the pool without an answer, in its order."""
        self._check_pool("to tell what is left of it")
        known = self._state().latest
        return [key for key in self.keys if key not in known]

    @property
    def progress(self) -> tuple[int, int]:
        """How many samples of the pool have a label, and how many it has."""
        self._check_pool("to count its samples; `status` needs none")
        known = self._state().labelled
        return sum(key in known for key in self.keys), len(self.keys)

    def status(self) -> Status:
        """How far it is, how predictions changed from round to round, and a hint when to stop."""
        state = self._state()
        nothing_left = bool(self.keys) and not any(key not in state.latest for key in self.keys)
        return status_of(state, self.keys or state.samples, nothing_left)

    def training_set(self) -> list[tuple[int, Any]]:
        """(Index in the pool, label) of what is labelled, in the pool's order.

        Raises:
            ValueError: If there is no pool: `labelled` has labels by key.

        Warns:
            UserWarning: If labels are there, and none is of a sample of the pool.
        """
        self._check_pool("for indices; `labelled` has labels by key, and needs none")
        known = self._state().labelled
        found = [(i, known[key]) for i, key in enumerate(self.keys) if key in known]
        if known and self.keys and not found:
            warnings.warn(
                f"None of {len(known)} labels is of a sample of the pool: they have keys such as "
                f"{next(iter(known))!r}, and the pool such as {self.keys[0]!r}.",
                stacklevel=2,
            )
        return found

    def _state(self) -> State:
        if not self._with_pool:  # with one, a campaign may be about to begin
            self._check_there()
        return state_of(self._journal.events())

    def _check_pool(self, why: str) -> None:
        if not self._with_pool:
            told = f"`pool` must be given to the campaign, with its keys, {why}. Got None."
            raise ArgumentError(told, "pool")

    def _check_there(self) -> None:
        """Raises where a name that was mistyped would be an empty campaign."""
        there = self._folder.is_dir() if self._with_pool else self._journal.path.exists()
        if not there:
            raise ArgumentError(
                "`folder` must be a folder in which `ask` began a campaign. Got "
                f"{str(self._folder)!r}.{like(self._folder)}",
                "folder",
            )

    def _take(self, number: Any, given: Mapping[str, Any], asked: bool = True) -> int:
        """Keeps what is news of these answers to a batch, or of labels that were there before."""
        taken: dict[str, Any] = {}

        def make(events: list[Event]) -> Event | None:
            state = state_of(events)
            if asked:
                batch = batch_of(state, number)
                named = answers_of(given, batch.keys, batch.root or self._root, f"batch {number}")
            else:  # those that have left the pool may be told again
                keys = {*self._places, *(key for batch, key in state.answers if batch == BEFORE)}
                named = answers_of(given, keys, self._root, "the pool")
            taken.update({k: v for k, v in named.items() if state.is_news(number, k, v)})
            if not taken:
                return None
            event = {"event": "tell", "batch": number, "answers": taken, "time": now()}
            return event if asked else event | {"samples": len(self.keys)}

        self._journal.append(make)
        return len(taken)

    def _new(self, events: list[Event], chosen: Event) -> Event:
        """The same without what was answered meanwhile, with an id."""
        state = state_of(events)
        rows = zip(chosen["keys"], chosen["records"], strict=True)
        left = [(key, row) for key, row in rows if key not in state.latest]
        keys, records = [key for key, _ in left], [row for _, row in left]
        return {**chosen, "batch": state.next_id, "keys": keys, "records": records}
