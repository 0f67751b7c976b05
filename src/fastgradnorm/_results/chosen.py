"""Records of chosen samples as files for people and labelling tools."""

import csv
import math
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from fastgradnorm._results.text import in_json, opened
from fastgradnorm._validate import Words, fail, fail_type
from fastgradnorm.atomic import replacing, write_text

Record = dict[str, Any]


def of_index(values: Any, index: int, name: str) -> Any:
    """What a sequence over the dataset, or a mapping from indices, has for a sample."""
    if isinstance(values, Mapping):
        if index not in values:
            raise fail(name, "a mapping of every chosen index", Words(f"none for {index}"))
        return _plain_value(values[index])
    if isinstance(values, (str, bytes)) or not hasattr(values, "__getitem__"):
        raise fail_type(name, "a sequence over the dataset, or a mapping from indices", values)
    if index >= len(values):
        raise fail(
            name,
            "one for each sample of the dataset, or a mapping from indices",
            Words(f"{len(values):,}, and none for index {index}"),
        )
    return _plain_value(getattr(values, "iloc", values)[index])  # pandas' index may be another


def _plain_value(value: Any) -> Any:
    if isinstance(value, PathLike):
        return fspath(value)
    return value.item() if hasattr(value, "item") else value


def with_ids(
    records: Sequence[Record], ids: Any, columns: Mapping[str, Any] | None = None
) -> list[Record]:
    """Each record with an `id` in front, and further columns behind."""
    more = {} if columns is None else columns
    if records:
        taken = [name for name in more if name in ("id", *records[0])]
        if taken:
            raise fail("columns", "of names that no record has", taken[0])
    return [
        {
            "id": row["index"] if ids is None else of_index(ids, row["index"], "ids"),
            **row,
            **{name: of_index(values, row["index"], "columns") for name, values in more.items()},
        }
        for row in records
    ]


def write_csv(records: Sequence[Record], path: str | Path) -> Path:
    """A header, then a line each."""
    with replacing(path) as partial, opened(partial) as file:
        writer = csv.DictWriter(file, list(records[0]) if records else ["id"])
        writer.writeheader()
        writer.writerows(records)
    return Path(path)


def write_jsonl(records: Sequence[Record], path: str | Path) -> Path:
    """A JSON object a line."""
    with replacing(path) as partial, opened(partial) as file:
        for row in records:
            file.write(in_json(_plain(row)) + "\n")
    return Path(path)


def write_tasks(
    records: Sequence[Record],
    path: str | Path,
    data: Any,
    field: str,
    names: Sequence[str] | None,
) -> Path:
    """Label Studio's tasks."""
    tasks = []
    for row in map(_plain, records):
        facts = {
            "key": row["id"],
            "score": row["score"],
            "rank": row["rank"],
            "predicted": class_name(row["predicted"], names),
            "confidence": row["confidence"],
        }
        if field in facts:
            raise fail("field", f"another name than {', '.join(facts)}", field)
        tasks.append({"data": {field: of_index(data, row["index"], "data"), **facts}})
    write_text(path, in_json(tasks, indent=1))
    return Path(path)


def write_argilla(
    records: Sequence[Record],
    path: str | Path,
    data: Any,
    field: str,
    question: str,
    names: Sequence[str] | None,
) -> Path:
    """Argilla's records."""
    found = []
    for row in map(_plain, records):
        suggestion = {
            "value": class_name(row["predicted"], names),
            "score": row["confidence"],
            "agent": "fastgradnorm",
        }
        numbers = {name: row[name] for name in ("score", "rank", "confidence")}
        found.append(
            {
                "id": str(row["id"]),
                "fields": {field: of_index(data, row["index"], "data")},
                "metadata": {name: value for name, value in numbers.items() if value is not None},
                "suggestions": {} if names is None else {question: suggestion},
                "responses": {},
                "vectors": {},
            }
        )
    write_text(path, in_json(found, indent=1))
    return Path(path)


def class_name(number: int | None, names: Sequence[str] | None) -> Any:
    """A class as people call it."""
    if number is None or names is None:
        return number
    if number >= len(names):
        wanted = f"one for each class, {number + 1} at least"
        raise fail("names", wanted, Words(f"{len(names)} names"))
    return names[number]


def _plain(row: Record) -> Record:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
