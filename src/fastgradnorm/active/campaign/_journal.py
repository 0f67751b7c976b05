"""The file that a campaign is: JSON lines, each there whole or not at all."""

import contextlib
import fcntl
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastgradnorm import ArgumentError

Event = dict[str, Any]


class Journal:
    """Events in the order they happened.

    Processes may share it: each appends under a lock, and waits until its line is on disk.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "campaign.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._told = False

    def events(self) -> list[Event]:
        """All that happened. A last line that a kill cut off is left out, and told once.

        Raises:
            ValueError: If another line is damaged.
        """
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            raw = file.read()
        return self._parsed(raw)[0]

    def append(self, make: Callable[[list[Event]], Event | None]) -> list[Event]:
        """Adds what `make` makes of all events so far, with nobody else in between.

        Returns:
            All events, with the new one if there is one.
        """
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
            file.seek(0)
            events, whole, ended = self._parsed(file.read())
            event = make(events)
            if event is None:
                return events
            file.truncate(whole)  # a line that was cut off goes
            line = ("" if ended else "\n") + json.dumps(event, ensure_ascii=False) + "\n"
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
            return [*events, event]

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While one process asks, others that ask wait; answers are taken meanwhile."""
        with self.path.with_suffix(".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _parsed(self, raw: bytes) -> tuple[list[Event], int, bool]:
        """Events, how many bytes they take, and whether the last one's line has its end."""
        events: list[Event] = []
        whole, ended = 0, True
        lines = raw.split(b"\n")
        for number, line in enumerate(lines):
            last = number == len(lines) - 1
            if not line:
                whole += 0 if last else 1
                continue
            event = _event(line)
            if event is None:
                if not last:
                    raise ArgumentError(
                        f"`folder` must hold a campaign's file. Line {number + 1} of {self.path} "
                        "is damaged. Restore the file, or delete that line: what it told is lost.",
                        "folder",
                    )
                self._tell(line)
                break
            events.append(event)
            whole += len(line) + (0 if last else 1)
            ended = not last
        return events, whole, ended

    def _tell(self, line: bytes) -> None:
        if not self._told:
            self._told = True
            warnings.warn(
                f"The last line of {self.path} was cut off while it was written, after "
                f"{len(line)} bytes, and is left out: tell those answers, or ask, again.",
                stacklevel=6,
            )


def _event(line: bytes) -> Event | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None
