"""Which sample a name in an answer means: its key, or a path that leads to it."""

import difflib
import os
from collections.abc import Collection, Mapping
from pathlib import Path, PurePath
from typing import Any

from fastgradnorm import ArgumentError

_MOST = 20_000  # keys among which a near one is looked for: comparing takes time


def answers_of(
    given: Mapping[str, Any], keys: Collection[str], root: str | None, which: str
) -> dict[str, Any]:
    """The same answers by key, where some are by path.

    Args:
        given: Labels by key, or by a path that leads to a sample's file.
        keys: Of the samples that may be answered.
        root: The folder that keys are paths within; None: they are no paths.
        which: The samples that may be answered, in words.

    Raises:
        ValueError: If one is of no such sample, or two of one sample differ.
    """
    found: dict[str, Any] = {}
    for name, label in given.items():
        key = name if name in keys else _led_to(name, keys, root)
        if key is None:
            raise ArgumentError(
                f"`answers` must be of {which}. Got {name!r}, which is not in it."
                f"{_meant(name, keys)}",
                "answers",
            )
        if key in found and found[key] != label:
            raise ArgumentError(
                f"`answers` must have one label a sample. Got two for {key!r}: "
                f"{found[key]!r} and {label!r}.",
                "answers",
            )
        found[key] = label
    return found


def like(folder: Path) -> str:
    """` Did you mean ...?`, if a campaign with nearly that name is beside where one is not."""
    try:
        beside = [each.parent.name for each in folder.parent.glob("*/campaign.jsonl")]
    except OSError:
        return ""
    near = difflib.get_close_matches(folder.name, beside, n=1)
    return f" Did you mean {str(folder.parent / near[0])!r}?" if near else ""


def _led_to(name: str, keys: Collection[str], root: str | None) -> str | None:
    """The key of the file that a path leads to; None if there is none, or it may be another's."""
    if root is None or "\0" in name:
        return None
    if os.path.lexists(os.path.join(root, name)):
        return None  # itself the key of a sample, of another batch
    for whole in (os.path.abspath, os.path.realpath):
        inside = os.path.relpath(whole(name), whole(root))
        if inside in keys:
            return inside
    return None


def _meant(name: str, keys: Collection[str]) -> str:
    """` Did you mean ...?`: the key that a path ends with, or of the same file, or a close one."""
    parts = PurePath(name).parts
    ends = {"/".join(parts[i:]) for i in range(1, len(parts))}
    near = [key for key in keys if key in ends]
    if not near:
        alike = [key for key in keys if PurePath(key).name == PurePath(name).name]
        near = alike if len(alike) == 1 else []
    if not near and len(keys) <= _MOST:
        near = difflib.get_close_matches(name, [*keys], n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
