"""The file that a campaign is: JSON lines, each there whole or not at all."""

import contextlib
import fcntl
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastgradnorm import ArgumentError

Event = dict[str, Any]
# What an event must have to be one that a campaign wrote; others are of a later version.
_FIELDS: dict[str, dict[str, type]] = {
    "ask": {"batch": int, "keys": list, "records": list, "predicted": dict, "samples": int},
    "tell": {"batch": int, "answers": dict},
    "release": {"batch": int},
}


class Journal:
    """Events in the order they happened.

    Processes may share it: each appends under a lock, and waits until its line is on disk.

    Args:
        folder: Where it is; made by `begin`, and by nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "campaign.jsonl"
        self._told = False

    def events(self) -> list[Event]:
        """All that happened. A last line that a kill cut off is left out, and told once.

        Raises:
            ValueError: If another line is damaged.
            OSError: If the file cannot be read.
        """
        if not self.path.exists():
            return []
        with self._locked(self.path, "rb", fcntl.LOCK_SH) as file:
            return self._parsed(file.readall())[0]

    def append(self, make: Callable[[list[Event]], Event | None]) -> list[Event]:
        """Adds what `make` makes of all events so far, with nobody else in between.

        Returns:
            All events, with the new one if there is one.

        Raises:
            OSError: If it cannot be written; then nothing of it is there.
        """
        with self._locked(self.path, "ab+", fcntl.LOCK_EX) as file:
            file.seek(0)
            events, whole, ended = self._parsed(file.readall())
            event = make(events)
            if event is None:
                return events
            line = (b"" if ended else b"\n") + _line(event)
            try:
                file.truncate(whole)  # a line that was cut off goes
                while line:
                    line = line[file.write(line) or 0 :]
                os.fsync(file.fileno())
            except OSError as error:
                with contextlib.suppress(OSError):
                    file.truncate(whole)  # nothing is kept of what was not kept whole
                wanted = "where there is room for a line; nothing was taken"
                raise self._refused(wanted, error) from error
            return [*events, event]

    def begin(self) -> None:
        """Makes the folder if it is not there."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refused("a folder, or a place for one", error) from error

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While one process asks, others that ask wait; answers are taken meanwhile."""
        with self._locked(self.path.with_suffix(".lock"), "ab", fcntl.LOCK_EX):
            yield

    def _locked(self, path: Path, mode: str, how: int) -> io.FileIO:
        """An open file, locked until it is closed."""
        try:
            file = io.FileIO(path, mode)
        except OSError as error:
            wanted = "one whose files can be read" if mode == "rb" else "one that can be written"
            raise self._refused(wanted, error) from error
        try:
            fcntl.flock(file, how)
        except OSError as error:
            file.close()
            raise self._refused("on a file system that can lock files", error) from error
        return file

    def _refused(self, wanted: str, error: OSError) -> OSError:
        told = f"`folder` must be {wanted}. {error.strerror}"
        return type(error)(error.errno, told, str(self.path))

    def _parsed(self, raw: bytes) -> tuple[list[Event], int, bool]:
        """Events, how many bytes they take, and whether the last one's line has its end."""
        events: list[Event] = []
        whole, ended = 0, True
        lines = raw.split(b"\n")
        for number, line in enumerate(lines):
            last = number == len(lines) - 1
            if not line.strip():
                whole += len(line) + (0 if last else 1)
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


def _line(event: Event) -> bytes:
    try:
        return json.dumps(event, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # names of files that are no text keep their bytes as escapes
        return json.dumps(event).encode() + b"\n"


def _event(line: bytes) -> Event | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("event"), str):
        return None
    fields = _FIELDS.get(found["event"], {})
    whole = all(isinstance(found.get(name), kind) for name, kind in fields.items())
    if whole and found["event"] == "ask":
        keys, records = found["keys"], found["records"]
        whole = len(keys) == len(records) and {*map(type, keys)} <= {str}
        whole = whole and {*map(type, records)} <= {dict}
    return found if whole else None
