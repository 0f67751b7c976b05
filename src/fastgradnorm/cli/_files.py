"""Files of scores, written and read by their suffix."""

import contextlib
import csv
import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastgradnorm import PoolScores
from fastgradnorm.atomic import ERRORS
from fastgradnorm.cli._failures import BadInputError, told

# UTF-8, also with the mark at its beginning that spreadsheets write.
ENCODING = "utf-8-sig"

_Write = Callable[[PoolScores, Path, Sequence[Any], Mapping[str, Any]], Path]

WRITERS: Mapping[str, _Write] = {
    ".csv": lambda scores, path, ids, more: scores.to_csv(path, ids, columns=more),
    ".jsonl": lambda scores, path, ids, more: scores.to_jsonl(path, ids, columns=more),
    ".parquet": lambda scores, path, ids, more: scores.to_parquet(path, ids, columns=more),
    ".npz": lambda scores, path, ids, more: scores.save(path),
}


def check_folder(place: Path, option: str) -> None:
    """Raises `BadInputError` unless files can be written into a folder; it need not be there yet.

    A full disk is no reason to stop here: there may be room when the work is done.
    """
    there = place
    try:
        with contextlib.suppress(FileNotFoundError):
            place.lstat()  # raises if a name is too long, or a file is in the way
        while not os.path.lexists(there) and there != there.parent:
            there = there.parent
        with tempfile.TemporaryDirectory(dir=there, prefix=".probe"):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return
        reason = error.strerror or error
        raise BadInputError(
            f"`{option}` must be a folder in which files can be written. {there}: {reason}. Choose "
            "another place."
        ) from error


def write_scores(
    scores: PoolScores, path: Path, ids: Sequence[Any], more: Mapping[str, Any]
) -> None:
    """Writes a row a sample: its name, score, rank and percentile, and further columns.

    An npz has the scores alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[path.suffix](scores, path, ids, more)


def print_scores(scores: PoolScores, ids: Sequence[Any], more: Mapping[str, Any]) -> None:
    """The same rows as CSV on standard output."""
    rows = scores.to_records(ids, columns=more)
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


def read_rows(path: Path, *columns: str, errors: str = "strict") -> list[dict[str, str]]:
    """Rows of a CSV as people's programs write it: with commas, semicolons or tabs between cells.

    Args:
        path: Of the file.
        columns: Names of those that are read.
        errors: What becomes of bytes that are no text in UTF-8.

    Raises:
        ValueError: If a column is missing, or a row has no cell for it.
    """
    with path.open(newline="", encoding=ENCODING, errors=errors) as file:
        header = file.readline()
        file.seek(0)
        between = max(",;\t", key=header.count)
        reader = csv.DictReader(file, delimiter=between)
        reader.fieldnames = found = [name.strip() for name in reader.fieldnames or ()]
        for name in columns:
            if name not in found:
                told = ", ".join(map(repr, found)) or "none"
                raise ValueError(f"there is no column {name!r} in the first line, which has {told}")
        rows = []
        for row in reader:
            if not any(row.values()):
                continue  # of a sheet that was longer once
            cut = [name for name in columns if row[name] is None]
            if cut:
                raise ValueError(f"line {reader.line_num} has no {cut[0]!r}")
            rows.append({name: row[name] for name in columns})
        return rows


def _rows(path: Path) -> Sequence[Mapping[str, Any]]:
    if path.suffix == ".csv":
        return read_rows(path, "id", "score", errors=ERRORS)
    if path.suffix == ".jsonl":
        with path.open(encoding=ENCODING) as file:
            return [json.loads(line) for line in file]
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def _number(value: Any) -> float:
    return float("nan") if value in (None, "") else float(value)
