"""Results as JSON lines: one for each cycle of each run, appended whole or not at all."""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastgradnorm import ArgumentError

Record = Mapping[str, Any]


@dataclass(frozen=True, repr=False)
class Run:
    """One strategy from one seed: its records, cycle by cycle.

    Attributes:
        settings: Task, strategy, seed, start, budget, subset, warm start.
        records: Of each cycle: `labelled` (how many), `metrics`, `seconds` (train, evaluate, score,
            select), `start` (the first indices, in cycle 0), `chosen` (indices labelled after it),
            `versions`, `environment`, `time`.
    """

    settings: Mapping[str, Any]
    records: tuple[Record, ...]

    def __repr__(self) -> str:
        told = f"Run({self.task!r} by {self.strategy!r}, seed {self.seed}"
        if not self.records:
            return f"{told}, nothing yet)"
        first, last = self.records[0], self.records[-1]
        before, after = first["metrics"], last["metrics"]
        changes = [
            f"{first['labelled']} to {last['labelled']} labels",
            *(f"{n} {before[n]:.4g} to {after[n]:.4g}" for n in before if n in after),
        ]
        return f"{told}: {', '.join(changes)})"

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.settings["task"])

    @property
    def strategy(self) -> str:
        """Name of the strategy."""
        return str(self.settings["strategy"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.settings["seed"])

    @property
    def labelled(self) -> np.ndarray:
        """Number of labels at each point of the curve."""
        return np.array([record["labelled"] for record in self.records])

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, the headline first."""
        return tuple(self.records[0]["metrics"]) if self.records else ()

    def curve(self, metric: str | None = None) -> np.ndarray:
        """A metric, by default the headline, at each point of the curve."""
        name = metric or self.metrics[0]
        return np.array([record["metrics"][name] for record in self.records])

    def seconds(self, what: str) -> np.ndarray:
        """Seconds of `"train"`, `"evaluate"`, `"score"` or `"select"` in each cycle."""
        return np.array([record["seconds"].get(what, 0.0) for record in self.records])

    @property
    def indices(self) -> list[int]:
        """Pool indices in the order they were labelled."""
        return [i for r in self.records for i in (*r.get("start", ()), *r["chosen"])]


def append(path: Path, settings: Mapping[str, Any], record: Record) -> None:
    """Adds a line, and waits until it is on disk. Several processes may share a file."""
    line = json.dumps({"settings": dict(settings), **record}) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a process was killed in the middle of its line
                line = "\n" + line
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def load_runs(*paths: str | Path) -> list[Run]:
    """The runs in files of JSON lines, in the order they began.

    Lines cut off by a kill are left out, and so are later cycles than the first one missing. Of two
    lines for the same cycle the later counts.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a whole line is not one that a learner wrote.
    """
    found: dict[str, tuple[Mapping[str, Any], dict[int, Record]]] = {}
    for path in paths:
        for number, line in enumerate(Path(path).read_text().split("\n")):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # cut off, or the empty one at the end
                continue
            if not isinstance(record, dict) or not {"settings", "cycle", "chosen"} <= {*record}:
                raise ArgumentError(
                    f"`paths` must be files that `ActiveLearner` wrote. Line {number + 1} of "
                    f"{str(path)!r} has no settings, cycle and chosen indices.",
                    "paths",
                )
            settings = record.pop("settings")
            key = json.dumps(settings, sort_keys=True)
            found.setdefault(key, (settings, {}))[1][record["cycle"]] = record
    return [Run(settings, _unbroken(records)) for settings, records in found.values()]


def _unbroken(records: Mapping[int, Record]) -> tuple[Record, ...]:
    """Cycles 0, 1, ... as far as each but the last says what was chosen after it."""
    kept: list[Record] = []
    while len(kept) in records and (not kept or kept[-1]["chosen"]):
        kept.append(records[len(kept)])
    return tuple(kept)


def stored_run(path: Path | None, settings: Mapping[str, Any]) -> Run:
    """What a file has of the run with these settings; nothing where there is no file."""
    runs: Sequence[Run] = load_runs(path) if path is not None and path.exists() else []
    same = [run for run in runs if run.settings == settings]
    return same[0] if same else Run(settings, ())
