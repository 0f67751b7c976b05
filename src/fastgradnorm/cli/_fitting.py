"""Options that say something of another kind of pool than the one given: told, not ignored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastgradnorm.cli._failures import BadInputError
from fastgradnorm.cli._tables import TABLES

_PICTURES = ("--image-size", "--every-frame")
_TEXTS = ("--text", "--tokenizer", "--max-length")
_FILES = ("--key", "--ids")


def check_fitting(pool: Path, asked: Mapping[str, Any]) -> None:
    """Raises `BadInputError` for an option that a pool of this kind has no use for.

    Args:
        pool: A folder or file that is there, or not, which is told elsewhere.
        asked: What was given, by option; None, False and empty: nothing was.
    """
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
