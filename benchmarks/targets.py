"""What was aimed at, beside what the stored runs say."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import tables
from benchmarks.provenance import RESULTS, load

CONVOLUTIONAL = ("cnn6", "resnet18")


class Target(NamedTuple):
    """One aim: a figure of a row, at least or at most so much."""

    text: str
    results: str
    wanted: float
    at_most: bool
    read: Callable[[Any], Sequence[float]]  # the figures, of which the worst counts

    def line(self, folder: Path) -> str:
        """A row of a Markdown table."""
        sign, worst = ("≤", max) if self.at_most else ("≥", min)
        results = load(self.results, folder)
        found = [] if results is None else [v for v in self.read(results["rows"]) if v is not None]
        measured = "not measured"
        if found:
            value = worst(found)
            met = value <= self.wanted if self.at_most else value >= self.wanted
            measured = f"{value:.3g}{'' if met else ' (missed)'}"
        return f"| {self.text} | {sign} {self.wanted:g} | {measured} | {self.results}.json |"


def _column(
    column: str, key: str, classes: int, cases: Sequence[str] | None = None
) -> Callable[[Any], Sequence[float]]:
    def read(rows: Any) -> Sequence[float]:
        return [
            row[key]
            for row in rows
            if row["column"] == column
            and row["classes"] == classes
            and (cases is None or row["case"] in cases)
            and key in row
        ]

    return read


def _rival(rows: Any) -> Sequence[float]:
    mine = [r for r in rows if r["case"] in CONVOLUTIONAL and r["classes"] == 10]
    rivals = [tables.fastest_rival(found, "expected") for *_, found in tables.by_case(mine)]
    return [rival["times_ours"] for rival in rivals if rival is not None]


def _memory(rows: Any) -> Sequence[float]:
    return [
        row["over_vmap_grad"]
        for row in rows
        if (row["model"], row["column"]) == ("resnet18", "expected") and "over_vmap_grad" in row
    ]


def _pool(key: str) -> Callable[[Any], Sequence[float]]:
    def read(rows: Any) -> Sequence[float]:
        pools = [r for r in rows if r["part"] == "pool" and r.get("done", 0) >= 100_000]
        return [row[key] / 2**20 for row in pools if row["score"] == "expected"]

    return read


def _flat(part: str, key: str, least: int) -> Callable[[Any], Sequence[float]]:
    """Time a sample at the largest size over that at `least`, for each score."""

    def read(rows: Any) -> Sequence[float]:
        mine = [r for r in rows if r["part"] == part and r.get(key, 0) >= least]
        scores = dict.fromkeys(r["score"] for r in mine if "seconds_per_sample" in r)
        groups = [[r["seconds_per_sample"] for r in mine if r["score"] == s] for s in scores]
        return [group[-1] / group[0] for group in groups if len(group) > 1]

    return read


_T = "throughput"
TARGETS = (
    Target("expected / floor, 6-conv CNN and ResNet-18, 10 classes", _T, 1.25, True,
           _column("expected", "over_floor", 10, CONVOLUTIONAL)),
    Target("expected, times the plain loop's speed, the same", _T, 2.5, False,
           _column("expected", "speedup_over_naive", 10, CONVOLUTIONAL)),
    Target("expected, times the fastest other package's speed, the same", "peers", 3, False,
           _rival),
    Target("entropy / training step, all cases", _T, 1.0, True,
           _column("entropy", "over_training_step", 10)),
    Target("last layer / forward, all cases, 10 classes", _T, 1.05, True,
           _column("last layer", "over_forward", 10)),
    Target("last layer / forward, swept cases, 1000 classes", _T, 1.15, True,
           _column("last layer", "over_forward", 1000)),
    Target("expected, peak memory / that of vmap(grad) of one class, ResNet-18, batch 32",
           "memory", 0.2, True, _memory),
    Target("growth of memory over a pool of 100,000, after the first tenth, MiB", "scaling", 16,
           True, _pool("growth_bytes")),
    Target("time a sample, largest pool / pool of 1,000", "scaling", 1.1, True,
           _flat("pool", "samples", 1_000)),
    Target("time a sample, batch of 512 / of 32", "scaling", 1.1, True,
           _flat("batch", "batch", 32)),
)  # fmt: skip


def table(folder: Path = RESULTS) -> str:
    """Every target, as Markdown; the worst figure counts where there are several."""
    lines = ["| aim | wanted | measured | in `benchmarks/results/` |", "|---|---:|---:|---|"]
    return "\n".join(lines + [target.line(folder) for target in TARGETS])
