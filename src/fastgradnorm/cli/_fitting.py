"""Options that say something of another kind of pool than the one given: told, not ignored."""

import contextlib
import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from fastgradnorm.cli._failures import BadInputError
from fastgradnorm.cli._tables import TABLES

_PICTURES = ("--image-size", "--every-frame")
_TEXTS = ("--text", "--tokenizer", "--max-length")
_FILES = ("--key", "--ids")


ARRAYS = (".npz", ".npy", ".safetensors", ".parquet")
_SHEETS = (".xlsx", ".xls", ".ods", ".numbers")


def check_there(pool: Path) -> None:
    """Raises `BadInputError` unless there is a folder, or a file of a kind that is read."""
    if not pool.exists():
        with contextlib.suppress(OSError):
            beside = [path.name for path in pool.parent.iterdir()]
            meant = difflib.get_close_matches(pool.name, beside, n=1)
            hint = f" Did you mean {pool.parent / meant[0]}?" if meant else ""
            raise BadInputError(f"`POOL` must be a folder or file that is there. Got {pool}.{hint}")
        raise BadInputError(
            f"`POOL` must be a folder or file that is there. Got {pool}; there is no folder "
            f"{pool.parent}."
        )
    suffix = pool.suffix.lower()
    if not pool.is_dir() and suffix not in (*ARRAYS, *TABLES):
        cure = " Save it as .csv, of Excel: CSV UTF-8." if suffix in _SHEETS else ""
        raise BadInputError(
            f"`POOL` must be a folder of images or one of {', '.join([*ARRAYS, *TABLES])}. Got "
            f"{pool}.{cure}"
        )


def check_fitting(pool: Path, asked: Mapping[str, Any]) -> None:
    """Raises `BadInputError` for an option that a pool of this kind has no use for.

    Args:
        pool: A folder or file that is there, or not, which is told.
        asked: What was given, by option; None, False and empty: nothing was.
    """
    check_there(pool)
    others: tuple[str, ...]
    if pool.is_dir():
        kind, others = "a folder of images", (*_TEXTS, *_FILES)
    elif pool.suffix.lower() in (*TABLES, ".parquet"):
        kind, others = "a table", _PICTURES
    else:
        kind, others = "a file of arrays", (*_PICTURES, *_TEXTS)
    for option in others:
        if asked.get(option):
            raise BadInputError(f"`{option}` must be left out where the pool is {kind}, {pool}.")


def how_many(order: str) -> Callable[[str], int]:
    """Reads a count from the command line.

    Args:
        order: Of the command's arguments, told where something else stands in its place.
    """

    def read(given: str) -> int:
        try:
            count = int(given)
        except ValueError:
            raise typer.BadParameter(
                f"it must be a whole number. Got {given!r}. The order is {order}."
            ) from None
        if count < 1:
            raise typer.BadParameter(f"it must be at least 1. Got {count}.")
        return count

    return read
