"""Cells of tables that have no number, where the others of their column have one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastgradnorm.cli._failures import BadInputError

# What programs write for it; "nan" is a number, which models may know what to do with.
_NONE = frozenset(["", "na", "n/a", "#n/a", "null", "none", "-", "?"])


def is_missing(value: Any) -> bool:
    """Whether a cell says that there is nothing."""
    return value is None or (isinstance(value, str) and value.strip().lower() in _NONE)


def are_numbers(values: Sequence[Any]) -> bool:
    """Whether all of these are numbers, or lists of them."""
    try:
        np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return True


def complete(
    columns: Mapping[str, Sequence[Any]], names: Sequence[Any], path: Path, skip_bad: bool
) -> tuple[list[int], list[str]]:
    """Rows that have a number in each of these columns, and what others lack.

    Columns that hold something else than numbers lack none: they are told of by who reads them.

    Args:
        columns: Those that are read.
        names: Of the samples: their rows, or what they are called.
        path: Of the table.
        skip_bad: Leave such rows out.

    Raises:
        BadInputError: If a row lacks one, unless it is to be left out; or all do.
    """
    bad: dict[int, str] = {}
    for key, values in columns.items():
        holes = {row for row, value in enumerate(values) if is_missing(value)}
        if not holes:
            continue
        if len(holes) == len(values):
            raise BadInputError(
                f"Column {key!r} of {path} has no number in any row. Choose others with --key."
            )
        if not are_numbers([value for row, value in enumerate(values) if row not in holes]):
            continue
        for row in sorted(holes):
            name = "" if names[row] == row else f" ({names[row]!s:.60})"
            bad.setdefault(row, f"row {row}{name} has no number in column {key!r}")
    count = len(names)
    bad = dict(sorted(bad.items()))
    if bad and not skip_bad:
        some = "; ".join([*bad.values()][:5]) + ("; ..." if len(bad) > 5 else "")
        raise BadInputError(
            f"{len(bad)} of {count} rows of {path} cannot be used: {some}. Fill them in, or leave "
            "them out with --skip-bad."
        )
    if len(bad) == count:
        raise BadInputError(f"`POOL` must have a row without a missing number. Got none in {path}.")
    return [row for row in range(count) if row not in bad], [f"{told}." for told in bad.values()]
