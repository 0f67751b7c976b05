"""Tables as people keep them: CSV, JSON lines, and text files with a sample a line."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastgradnorm.cli._failures import BadInputError, near
from fastgradnorm.cli._files import ENCODING
from fastgradnorm.cli._missing import are_numbers, is_missing

TABLES = (".csv", ".tsv", ".jsonl", ".txt")
_LONGEST = 2**31 - 1  # characters of a cell: Python's own limit, 131,072, is less than an article


def read_table(path: Path) -> dict[str, list[Any]]:
    """Columns by name; of a text file one, `text`, with its lines that are not blank.

    Raises:
        BadInputError: If it is no such table; the message names the line.
        OSError: If it cannot be read.
    """
    try:
        if path.suffix.lower() == ".txt":
            lines = path.read_text(encoding=ENCODING).split("\n")  # a text may hold other breaks
            return {"text": [line for line in lines if line.strip()]}
        return _jsonl(path) if path.suffix.lower() == ".jsonl" else _csv(path)
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"`POOL` {path} must be text in UTF-8. At byte {error.start} it is not. "
            "Save it as that, as by `iconv -f ENCODING -t UTF-8`; of Excel: CSV UTF-8."
        ) from error


def read_parquet(path: Path) -> dict[str, list[Any]]:
    """Columns by name.

    Raises:
        BadInputError: If it is damaged.
        OSError: If it cannot be read.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise BadInputError(f"`POOL` {path} is damaged: {error}") from error
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _csv(path: Path) -> dict[str, list[Any]]:
    before = csv.field_size_limit(_LONGEST)
    try:
        with path.open(newline="", encoding=ENCODING) as file:
            header = next((line for line in iter(file.readline, "") if line.strip()), "")
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=header.count), strict=True)
            first = next((row for row in reader if any(cell.strip() for cell in row)), [])
            names = [name.strip() for name in first]
            if len({*names}) != len(names) or "" in names:
                raise BadInputError(
                    f"`POOL` {path} must have a name for each column in its first line, all of "
                    f"them different. Got {', '.join(map(repr, names))}."
                )
            rows = []
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue  # of a sheet that was longer once
                if len(row) != len(names):
                    raise BadInputError(
                        f"`POOL` {path} must have {len(names)} cells in each row. Line "
                        f"{reader.line_num} has {len(row)}."
                    )
                rows.append(row)
    except csv.Error as error:
        raise BadInputError(
            f"`POOL` {path} is damaged in line {reader.line_num}: {error}."
        ) from error
    finally:
        csv.field_size_limit(before)
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _jsonl(path: Path) -> dict[str, list[Any]]:
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding=ENCODING).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadInputError(
                f"`POOL` {path} must have a JSON object a line. Line {number}: {error}."
            ) from error
        if not isinstance(row, Mapping):
            raise BadInputError(
                f"`POOL` {path} must have a JSON object a line. Line {number} has "
                f"{type(row).__name__}."
            )
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def column(columns: Mapping[str, list[Any]], name: str, option: str) -> list[Any]:
    """A column; raises unless it is there."""
    if name not in columns:
        raise BadInputError(
            f"`{option}` must be one of {', '.join(columns) or 'none'}. Got {name!r}."
            f"{near(name, columns)}"
        )
    return columns[name]


def numbers(name: str, values: list[Any], path: Path, advice: str = "") -> np.ndarray:
    """A column of numbers `[N]`; of JSON lists of one length `[N, ...]`.

    Args:
        name: Of the column.
        values: A cell a row.
        path: Of the table.
        advice: What to do where it holds something else.

    Raises:
        BadInputError: If it holds something else; the message names the row.
    """
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        pass
    for row, value in enumerate(values):
        try:
            np.array(value, dtype=np.float64)
        except (TypeError, ValueError):
            if is_missing(value) and not all(map(is_missing, values)):
                continue  # another cell is told, which is no number either
            told = f"Column {name!r} of {path} must hold numbers. Row {row} has {value!r:.60}."
            if _is_number(str(value).replace(",", ".")):
                raise BadInputError(f"{told} Write it with a decimal point.") from None
            raise BadInputError(f"{told} {advice}".rstrip()) from None
    raise BadInputError(f"Column {name!r} of {path} must hold lists of one length.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def without_names(names: Sequence[str]) -> bool:
    """Whether the first line of a table seems to be a row, and no names of columns."""
    return len(names) > 0 and all(map(_is_number, names))


def is_text(values: list[Any]) -> bool:
    """Whether a column holds texts that are no numbers; of few blank cells it is none."""
    told = [value for value in values if not is_missing(value)]
    return all(isinstance(value, str) for value in told) and not are_numbers(told[:100])
