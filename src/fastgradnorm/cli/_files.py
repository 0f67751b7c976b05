"""Files of scores, written and read by their suffix."""

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastgradnorm import PoolScores
from fastgradnorm.cli._failures import BadInputError, told

_Write = Callable[[PoolScores, Path, Sequence[Any]], Path]

WRITERS: Mapping[str, _Write] = {
    ".csv": lambda scores, path, ids: scores.to_csv(path, ids=ids),
    ".jsonl": lambda scores, path, ids: scores.to_jsonl(path, ids=ids),
    ".parquet": lambda scores, path, ids: scores.to_parquet(path, ids=ids),
    ".npz": lambda scores, path, ids: scores.save(path),
}


def write_scores(scores: PoolScores, path: Path, ids: Sequence[Any]) -> None:
    """Writes a row a sample: its name, score, rank and percentile. An npz keeps no names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[path.suffix](scores, path, ids)


def print_scores(scores: PoolScores, ids: Sequence[Any]) -> None:
    """The same rows as CSV on standard output."""
    rows = scores.to_records(ids=ids)
    writer = csv.DictWriter(sys.stdout, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)


def read_scores(path: Path) -> tuple[np.ndarray, list[Any]]:
    """Scores `[N]` and the names of their samples, which an npz has as indices in the pool.

    Raises:
        BadInputError: If the file is not one that `write_scores` wrote.
    """
    if path.suffix not in WRITERS:
        raise BadInputError(f"`SCORES` must end in one of {', '.join(WRITERS)}. Got {path}.")
    try:
        if path.suffix == ".npz":
            scores = PoolScores.load(path)
            return scores.to_numpy(), [row["id"] for row in scores.to_records()]
        rows = list(_rows(path))
        values = np.array([_number(row["score"]) for row in rows])
        return values, [row["id"] for row in rows]
    except OSError as error:
        raise BadInputError(f"`SCORES` cannot be read. {told(error)}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise BadInputError(
            f"`SCORES` must be a file that `fastgradnorm score` wrote. Got {path}: {error}"
        ) from error


def _rows(path: Path) -> Sequence[Mapping[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def _number(value: Any) -> float:
    return float("nan") if value in (None, "") else float(value)
