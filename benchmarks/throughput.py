"""Samples a second of our scores, of what they replace, and of the least they could cost.

    python -m benchmarks throughput [--case resnet18] [--classes 10] [--threads 2]

All columns of a case are timed in one process, in turn, round by round; ratios are medians over
rounds. Before anything is timed, the scores are compared with the plain autograd loop in float64,
and a column that is wrong gets no time. Columns that would take longer than a cap get a smaller
batch, or the reason why they have no time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import plots, tables
from benchmarks.cases import CASES, TINY, Case
from benchmarks.columns import own_columns
from benchmarks.measuring import Row, measure
from benchmarks.provenance import RESULTS, load, provenance, store
from benchmarks.setting import OURS, Setting

SWEPT = ("cnn6", "resnet18", "bert")  # over numbers of classes
CLASSES = (2, 100, 1000)


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: At most.
        seconds: Of timing a case at ten classes, after which no round begins.
        swept: The same at other numbers of classes.
        cap: Seconds a run of one column.
    """

    rounds: int = 15
    seconds: float = 30.0
    swept: float = 10.0
    cap: float = 5.0


LEAST = Effort(rounds=3, seconds=0.0, swept=0.0)


def grid(cases: Sequence[str] | None, classes: Sequence[int] | None) -> list[tuple[Case, int]]:
    """What is measured by default: all cases at ten classes, some at other numbers of them."""
    names = cases or list(CASES)
    if classes is not None:
        return [(CASES[name], count) for name in names for count in classes]
    swept = [(CASES[name], count) for name in names if name in SWEPT for count in CLASSES]
    return [(CASES[name], 10) for name in names] + swept


def main(
    cells: Sequence[tuple[Case, int]],
    effort: Effort,
    *,
    batch: int | None = None,
    device: str = "cpu",
    name: str = "throughput",
    folder: Path | None = RESULTS,
    keep: bool = False,
) -> int:
    """Measures, prints and stores; 1 if a score of ours is wrong or fails.

    Args:
        cells: Cases and numbers of classes.
        effort: How long.
        batch: Samples at a time; by default the case's own.
        device: Where.
        name: Of the results.
        folder: Where they go; nowhere if None.
        keep: Whether stored rows of other cells stay.
    """
    rows: list[Row] = []
    for case, classes in cells:
        setting = Setting(case, classes, batch or case.samples, device)
        seconds = effort.seconds if classes == 10 else effort.swept
        found = measure(setting, own_columns(setting, effort.cap), effort.rounds, seconds)
        print(tables.terminal(found), end="\n\n", flush=True)
        rows += found
    if folder is not None:
        write(name, rows, folder, keep, device)
    return int(any(map(_is_failure, rows)))


def _is_failure(row: Row) -> bool:
    """Whether a column that must have a figure has another reason for none than its cost."""
    ours = row["column"] in OURS or row["column"].startswith("naive")
    return ours and "over the cap" not in row.get("reason", "over the cap")


def write(name: str, rows: list[Row], folder: Path, keep: bool, device: str = "cpu") -> None:
    """Stores rows of cases, beside those of other cells if asked to, with a picture."""
    done = {(row["case"], row["classes"]) for row in rows}
    stored: Any = (load(name, folder) if keep else None) or {"rows": []}
    others = [row for row in stored["rows"] if (row["case"], row["classes"]) not in done]
    results = {"provenance": provenance(device), "rows": others + rows}
    path = store(name, results, folder)
    draw = plots.peers if name == "peers" else plots.throughput
    print(f"written: {path}, {draw(results, path.with_suffix('.png'))}")


def tiny(folder: Path | None) -> int:
    """Every step on a model of a few hundred parameters."""
    return main([(TINY, 3)], LEAST, folder=folder)
