"""Rows as text: in UTF-8, and what is none written so that it can be read again."""

import json
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TextIO

from fastgradnorm.atomic import ERRORS


def opened(path: Path) -> TextIO:
    """A new file for rows."""
    return path.open("w", newline="", encoding="utf-8", errors=ERRORS)


def in_json(value: Any, indent: int | None = None) -> str:
    """The value as JSON, in characters where UTF-8 has all of them, and else in escapes.

    Raises:
        TypeError: If it holds what JSON has no form for.
        ValueError: If it holds NaN or infinity.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent, default=_refused)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, indent=indent)
    return text


def _refused(value: Any) -> Any:
    if isinstance(value, PathLike):
        return fspath(value)
    raise TypeError(
        f"What is written as JSON must be text, numbers, lists and mappings of them. Got "
        f"{type(value).__name__}. Pass it as text, such as `str(value)`."
    )
