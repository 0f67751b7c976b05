"""Samples by key, their labels in JSON, and those whose predictions are watched."""

import json
import math
import operator
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Subset

from fastgradnorm import ArgumentError, ArgumentTypeError, Selection

_WATCHED = 1000  # samples whose predictions are kept from round to round


def keys_of(key: Any, size: int) -> tuple[str, ...]:
    """The key of each of so many samples; raises unless they differ."""
    if hasattr(key, "tolist") and not callable(key):
        key = key.tolist()  # of NumPy, pandas, PyTorch
    if callable(key):
        found = tuple(key_text(key(i)) for i in range(size))
    elif isinstance(key, (str, bytes)) or not isinstance(key, Sequence | Mapping):
        raise ArgumentTypeError(
            "`key` must be a sequence with one key a sample, or a function of its index. Got "
            f"{type(key).__name__}.",
            "key",
        )
    else:
        if len(key) != size:
            raise ArgumentError(
                f"`key` must have one for each of {size} samples. Got {len(key)}.", "key"
            )
        missing = [i for i in range(size) if i not in key] if isinstance(key, Mapping) else ()
        if missing:
            raise ArgumentError(
                "`key` must have the key of each sample by its index, where it is a mapping. Got "
                f"none for sample {missing[0]}. Of a mapping from keys pass `list(...)`.",
                "key",
            )
        found = tuple(key_text(key[i]) for i in range(size))
    seen: dict[str, int] = {}
    for i, name in enumerate(found):
        if name in seen:
            raise ArgumentError(
                f"`key` must differ from sample to sample. Samples {seen[name]} and {i} are both "
                f"{name!r}.",
                "key",
            )
        seen[name] = i
    return found


def is_table(pool: Any) -> bool:
    """Whether its places are columns, and no samples."""
    return type(pool).__module__.partition(".")[0] in ("pandas", "polars", "pyarrow")


def batch_number(batch: Any) -> Any:
    """The id of a batch, as Python's own integer where it is one."""
    number = getattr(batch, "id", batch)
    try:
        return operator.index(number)
    except TypeError:
        return None if number is None else str(number)  # which no batch has: told as it is


def key_text(key: Any) -> str:
    """A key as text: of one number of an array or tensor, that number's."""
    if getattr(key, "ndim", None) == 0 and hasattr(key, "item"):
        key = key.item()
    return str(key)


def keyed(answers: Any) -> dict[str, Any]:
    """Labels as JSON holds them, by keys as text; raises where two keys are one as text."""
    if not isinstance(answers, Mapping):
        how = " Pass `answers.to_dict()`." if hasattr(answers, "to_dict") else ""
        raise ArgumentTypeError(
            f"`answers` must be labels by key. Got {type(answers).__name__}. "
            f"Skipped ones are None.{how}",
            "answers",
        )
    found: dict[str, Any] = {}
    for key, label in answers.items():
        name = key_text(key)
        if name in found:
            raise ArgumentError(
                f"`answers` must have one label a key. Got two for {name!r}, which is how keys of "
                "several types are written. Use the keys that the batch has.",
                "answers",
            )
        found[name] = label_of(key, label)
    return found


def groups_of(groups: Any, kept: Sequence[int], size: int) -> list[Any]:
    """Of some samples, the groups; raises unless there is one for each of so many samples."""
    if hasattr(groups, "tolist"):
        groups = groups.tolist()
    if not isinstance(groups, Mapping) and (not hasattr(groups, "__len__") or len(groups) != size):
        count = f"{len(groups)} in all" if hasattr(groups, "__len__") else type(groups).__name__
        raise ArgumentError(
            f"`groups` must be the group of each of {size} samples of the pool. Got {count}.",
            "groups",
        )
    missing = next((i for i in kept if isinstance(groups, Mapping) and i not in groups), None)
    if missing is not None:
        raise ArgumentError(
            f"`groups` must be the group of each sample, by its index. Got none for {missing}.",
            "groups",
        )
    return [groups[i] for i in kept]


def part_of(pool: Any, kept: list[int]) -> Any:
    """A dataset of some samples of another."""
    if hasattr(pool, "select") and hasattr(pool, "column_names"):  # of Hugging Face
        return pool.select(kept)
    return Subset(pool, kept)


def watched(keys: Sequence[str], made: Selection) -> dict[str, int]:
    """The classes predicted for some samples, the same ones in every round."""
    places = made.scores.indices
    order = range(len(made.predicted)) if places is None else places.tolist()
    found = {keys[i]: int(c) for i, c in zip(order, made.predicted.tolist(), strict=True)}
    chosen = sorted(found, key=_mixed)[:_WATCHED]
    return {key: found[key] for key in chosen}


def _mixed(key: str) -> tuple[int, str]:
    return zlib.crc32(key.encode("utf-8", "surrogatepass")), key


def label_of(key: Any, label: Any) -> Any:
    """A label as JSON holds it; raises `TypeError` where it cannot."""
    plain = label.item() if hasattr(label, "item") and getattr(label, "ndim", 1) == 0 else label
    try:
        if json.loads(json.dumps(plain, allow_nan=False)) == plain:
            return plain
    except (TypeError, ValueError):
        pass
    nan = isinstance(plain, float) and math.isnan(plain)
    told = "NaN" if nan else type(label).__name__
    raise ArgumentTypeError(
        f"`answers` must have labels that JSON can hold. Got {told} for {key!r}. What people "
        "would not label is None.",
        "answers",
    )
