"""Stored results: one task, its strategies and seeds, their learning curves and seconds."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Curve:
    """One strategy from one seed.

    Attributes:
        strategy: Its name.
        seed: Of the run; equal seeds share the start set, random subsets and initial weights.
        labels: How many, at each point.
        metrics: Each metric at each point; the first is the headline.
        seconds: Of `train`, `score`, `select` and `evaluate`, summed over the cycles in which
            labels were bought; the training after the last purchase does not count.
        start: Digest of the indices labelled at first; the same for all strategies of a seed.
        chosen: Digest of all indices in the order they were labelled.
    """

    strategy: str
    seed: int
    labels: tuple[int, ...]
    metrics: Mapping[str, tuple[float, ...]]
    seconds: Mapping[str, float]
    start: str
    chosen: str

    @property
    def headline(self) -> tuple[float, ...]:
        """The first metric."""
        return next(iter(self.metrics.values()))


def from_run(run: Any) -> Curve:
    """The curve of a `fastgradnorm.active.Run`."""
    bought = max(1, len(run.records) - 1)
    return Curve(
        strategy=run.strategy,
        seed=run.seed,
        labels=tuple(int(n) for n in run.labelled),
        metrics={name: tuple(round(float(v), 5) for v in run.curve(name)) for name in run.metrics},
        seconds={
            name: round(float(run.seconds(name)[:bought].sum()), 3)
            for name in ("train", "score", "select", "evaluate")
        },
        start=_digest(run.records[0]["start"]),
        chosen=_digest(run.indices),
    )


def _digest(indices: list[int]) -> str:
    return hashlib.sha256(json.dumps(indices).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Results:
    """All curves of one task.

    Attributes:
        task: Its name.
        facts: Title, plan, and where the figures come from.
        curves: Of all strategies and seeds.
    """

    task: str
    facts: Mapping[str, Any]
    curves: tuple[Curve, ...]

    def of(self, strategy: str) -> dict[int, Curve]:
        """One strategy's curves by seed."""
        return {curve.seed: curve for curve in self.curves if curve.strategy == strategy}

    @property
    def strategies(self) -> list[str]:
        """Names, in the order in which they were run."""
        return list(dict.fromkeys(curve.strategy for curve in self.curves))

    @property
    def metric(self) -> str:
        """Name of the headline metric."""
        return next(iter(self.curves[0].metrics))


def store(results: Results, folder: Path = RESULTS) -> Path:
    """Writes `<task>.json`, a line a curve."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{results.task}.json"
    lines = ",\n".join("  " + json.dumps(asdict(curve)) for curve in results.curves)
    facts = json.dumps({"task": results.task, "facts": results.facts}, ensure_ascii=False)
    path.write_text(f'{facts[:-1]}, "curves": [\n{lines}\n]}}\n')
    return path


def load(path: Path) -> Results:
    """Reads what `store` wrote."""
    stored = json.loads(path.read_text())
    curves = tuple(
        Curve(**{
            **row,
            "labels": tuple(row["labels"]),
            "metrics": {name: tuple(values) for name, values in row["metrics"].items()},
        })
        for row in stored["curves"]
    )  # fmt: skip
    return Results(stored["task"], stored["facts"], curves)


def load_all(folder: Path = RESULTS) -> list[Results]:
    """Every task's results, by name."""
    return [load(path) for path in sorted(folder.glob("*.json"))]
