"""The file that makes a long run resumable: what was scored, batch by batch, and of what.

One JSON object a line. The first tells what was asked for; each further one holds the scores of a
batch as the bytes of their numbers, and a checksum. A line goes to the system as soon as its batch
is done, so that a killed process loses the batch it was working on; it goes to the disk every few
seconds, for the day the machine itself stops. A last line without its end was being written, and is
dropped. Nothing in the file is executed. Results of many numbers a sample lie in a file beside it,
whose name ends in `.bin` too: see `rows.py`.
"""

import base64
import errno
import json
import os
import time
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgradnorm._errors import ArgumentError
from fastgradnorm._pool.identity import refuse_others
from fastgradnorm._pool.rows import RowsFile

_KIND = "fastgradnorm checkpoint 2"
_SECONDS_BETWEEN_SYNCS = 5.0


@dataclass(frozen=True)
class Entry:
    """One batch.

    Attributes:
        read: Samples that the loader yielded.
        columns: Scores and standard errors, `[n]` or `[n, k]` each, by name; of the samples that
            were drawn.
        state: Whatever the run needs to go on as it would have.
    """

    read: int
    columns: dict[str, Tensor]
    state: dict[str, Any] = field(default_factory=dict)


class Checkpoint:
    """Entries of one run in a file, to which more are added.

    Args:
        path: Of the file; made if it is not there.
        facts: What the scores depend on. A file of other facts is refused.

    Attributes:
        entries: What was there when it was opened.
        finished: Whether the run had come to its end.

    Raises:
        ValueError: If the file is of another run, in use, or damaged.
        OSError: If it cannot be made.
    """

    def __init__(self, path: str | Path, facts: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.entries: list[Entry] = []
        self.finished = False
        self._rows: RowsFile | None = None
        header = {"kind": _KIND, **json.loads(json.dumps(facts))}
        try:
            # Made empty, and written once it is locked: processes may begin at the same moment.
            self._file: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise _unwritable(error, self.path) from error
        try:
            self._lock()
            self._begin(_line(header))
            self._end = self._read(header)
            os.ftruncate(self._file, self._end)
            if self._rows is not None:
                self._rows.cut()
            os.lseek(self._file, self._end, os.SEEK_SET)
        except BaseException:
            os.close(self._file)
            if self._rows is not None:
                self._rows.close()
            raise
        self._synced = time.monotonic()

    def add(self, entry: Entry) -> None:
        """Writes one batch. A disk that takes no more is warned of once; scoring goes on."""
        if self._file is None:
            return
        try:
            columns = {name: self._encoded(values) for name, values in entry.columns.items()}
        except OSError as error:
            self._give_up(error)
            return
        self._append({"read": entry.read, "columns": columns, "state": entry.state})

    def finish(self) -> None:
        """Notes that there is no more to come."""
        self._append({"finished": True})

    def close(self) -> None:
        """Brings everything to the disk."""
        if self._file is not None:
            self._sync()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._rows is not None:
            self._rows.close()

    def _append(self, item: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        line = _line(item)
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            self._give_up(error)
            return
        self._end += len(line)
        if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
            self._sync()

    def _sync(self) -> None:
        assert self._file is not None
        try:
            if self._rows is not None:
                self._rows.sync()  # first: a line tells of rows that are there
            os.fsync(self._file)
        except OSError as error:
            self._give_up(error)
        self._synced = time.monotonic()

    def _give_up(self, error: OSError) -> None:
        assert self._file is not None
        os.close(self._file)  # a half-written last line is dropped by whoever reads it
        self._file = None
        warnings.warn(
            f"The checkpoint {str(self.path)!r} cannot be written any more: {error.strerror}. "
            "Scoring goes on; a new run would start again from what is there.",
            stacklevel=2,
        )

    def _lock(self) -> None:
        assert self._file is not None
        try:
            import fcntl

            # Not `flock`: workers of a loader would hold on to it when this process is killed.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ArgumentError(
                f"`checkpoint` must be a file of one run. Got {str(self.path)!r}, which another "
                "process is writing. Wait for it, or use another path.",
                "checkpoint",
            ) from error
        except (ImportError, OSError):
            pass  # a system or file system without locks

    def _begin(self, line: bytes) -> None:
        """Writes the first line, unless there is one: a process may be stopped before it is."""
        assert self._file is not None
        there = os.pread(self._file, len(line), 0)
        if there == line or not line.startswith(there):
            return
        try:
            written = os.pwrite(self._file, line, 0)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, 0)
            raise _unwritable(error, self.path) from error

    def _read(self, header: Mapping[str, Any]) -> int:
        """Fills `entries`; returns where the last whole line ends."""
        assert self._file is not None
        # Not by opening it again: closing that would give up the lock.
        content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        *lines, _ = content.split(b"\n")
        found = _parsed(lines[0]) if lines else None
        if found is None or found.get("kind") != _KIND:
            raise ArgumentError(
                f"`checkpoint` must be a file that scoring wrote, or a path without one. Got "
                f"{str(self.path)!r}, which is something else or damaged. Use another path, or "
                "delete it to start anew.",
                "checkpoint",
            )
        if len(lines) == 1 and found != header:  # of a run that failed before its first score
            line = _line(header)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, line, 0)
            return len(line)
        refuse_others(self.path, found, header)
        end = len(lines[0]) + 1
        for number, line in enumerate(lines[1:], 2):
            item = _parsed(line)
            if item is None or self.finished:
                raise self._damaged(number)
            end += len(line) + 1
            if item.get("finished"):
                self.finished = True
                continue
            entry = self._entry(item)
            if entry is None:
                raise self._damaged(number)
            self.entries.append(entry)
        return end

    def _damaged(self, number: int) -> ArgumentError:
        return ArgumentError(
            f"`checkpoint` must be whole. Got {str(self.path)!r}, damaged in line {number}. Delete "
            "it to start anew, or cut it off before that line to keep the rest.",
            "checkpoint",
        )

    def _entry(self, item: Mapping[str, Any]) -> Entry | None:
        """None if rows that it tells of are not as they were written."""
        columns = {name: self._decoded(told) for name, told in item["columns"].items()}
        known = {name: values for name, values in columns.items() if values is not None}
        return Entry(item["read"], known, item["state"]) if len(known) == len(columns) else None

    def _encoded(self, values: Tensor) -> Any:
        if values.dim() > 1:
            return self._beside().add(values)
        array = values.numpy()
        return array.dtype.str, base64.b64encode(array.tobytes()).decode()

    def _decoded(self, told: Any) -> Tensor | None:
        if isinstance(told, dict):
            return self._beside().read(told)
        dtype, content = told
        return torch.from_numpy(np.frombuffer(base64.b64decode(content), np.dtype(dtype)).copy())

    def _beside(self) -> RowsFile:
        if self._rows is None:
            self._rows = RowsFile(rows_of(self.path))
        return self._rows


def rows_of(path: Path) -> Path:
    """The file beside a checkpoint."""
    return path.with_name(f"{path.name}.bin")


def _unwritable(error: OSError, path: Path) -> OSError:
    told = f"`checkpoint` must be a file that can be written. {error.strerror}"
    return OSError(error.errno, told, str(path))


def _line(item: Mapping[str, Any]) -> bytes:
    text = json.dumps(item).encode()
    return b"%08x " % zlib.crc32(text) + text + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a line, or None if it is not as it was written."""
    checksum, _, text = line.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        item = json.loads(text)
    except ValueError:
        return None
    return item if isinstance(item, dict) else None
