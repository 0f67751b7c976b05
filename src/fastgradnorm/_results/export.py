"""Scores as tables for other programs: records, CSV, JSON lines, Parquet.

A row a sample, in pool order:

- `id`: the caller's, or else the sample's index in the dataset;
- `score`: the gradient norm, or for tools that label low scores first `1 - percentile`;
- `rank`: 1 for the sample to label first; ties in pool order, as `select` breaks them;
- `percentile`: 1 for the first, 0 for the last, evenly between;
- `inverted_score`: `1 - percentile`; where `score` holds that, `gradient_norm` holds the norm;
- `standard_error`: of the norm, where it was estimated;
- further columns of the caller's.

A NaN score has no rank: its numbers are None, empty in CSV, null in JSON and Parquet, also where
low scores come first, so that no tool takes it for the best. An infinite norm ranks first; JSON has
no word for it and gets null.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fastgradnorm._results.text import in_json, opened
from fastgradnorm._selection import select
from fastgradnorm._validate import Words, check_bool, fail, fail_type
from fastgradnorm.atomic import replacing

Columns = dict[str, list[Any]]
Ids = Sequence[Any] | Mapping[int, Any]
More = Mapping[str, Any] | None


class Scores(Protocol):
    """What is exported."""

    @property
    def values(self) -> Tensor: ...
    @property
    def standard_error(self) -> Tensor | None: ...
    @property
    def provenance(self) -> Mapping[str, Any]: ...
    @property
    def indices(self) -> Tensor | None:
        """Which sample of the dataset each is; None where they are in its order."""


def records(
    scores: Scores, ids: Ids | None, low_first: bool, more: More = None
) -> list[dict[str, Any]]:
    """A dict a sample."""
    columns = _columns(scores, ids, low_first, more)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def write_csv(
    scores: Scores, path: str | Path, ids: Ids | None, low_first: bool, more: More = None
) -> Path:
    """A header, then a line a sample."""
    columns = _columns(scores, ids, low_first, more)
    with replacing(path) as partial, opened(partial) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return Path(path)


def write_jsonl(
    scores: Scores, path: str | Path, ids: Ids | None, low_first: bool, more: More = None
) -> Path:
    """A JSON object a line."""
    columns = _columns(scores, ids, low_first, more)
    with replacing(path) as partial, opened(partial) as file:
        for row in zip(*columns.values(), strict=True):
            plain = {name: _in_json(value) for name, value in zip(columns, row, strict=True)}
            file.write(in_json(plain) + "\n")
    return Path(path)


def write_parquet(
    scores: Scores, path: str | Path, ids: Ids | None, low_first: bool, more: More = None
) -> Path:
    """A column each, with the provenance as JSON in the schema's metadata."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "`to_parquet` needs pyarrow: `pip install fastgradnorm[parquet]`."
        ) from error
    columns = _columns(scores, ids, low_first, more)
    table = pyarrow.table({name: _in_utf8(values) for name, values in columns.items()})
    table = table.replace_schema_metadata({"fastgradnorm": json.dumps(dict(scores.provenance))})
    with replacing(path) as partial:
        pyarrow.parquet.write_table(table, partial)
    return Path(path)


def _columns(scores: Scores, ids: Ids | None, low_first: bool, more: More) -> Columns:
    check_bool("low_first", low_first)
    ranks, percentiles = _ranks(scores.values)
    norms = _known(scores.values)
    inverted = [None if p is None else 1 - p for p in percentiles]
    columns: Columns = {
        "id": _of_samples(scores, ids, "ids"),
        "score": inverted if low_first else norms,
        "rank": ranks,
        "percentile": percentiles,
    }
    columns |= {"gradient_norm": norms} if low_first else {"inverted_score": inverted}
    if scores.standard_error is not None:
        columns["standard_error"] = _known(scores.standard_error)
    for name, values in ({} if more is None else more).items():
        if name in columns:
            raise fail("columns", "of names that no record has", name)
        columns[name] = _of_samples(scores, values, "columns")
    return columns


def _of_samples(scores: Scores, values: Any, argument: str) -> list[Any]:
    """One of `values` a score; of None its index."""
    count = len(scores.values)
    places = range(count) if scores.indices is None else scores.indices.tolist()
    if values is None:
        return list(places)
    each = "id" if argument == "ids" else "value"
    if isinstance(values, Mapping):
        missing = [place for place in places if place not in values]
        if missing:
            raise fail(argument, "a mapping of every index", Words(f"none for {missing[0]}"))
        return [values[place] for place in places]
    if isinstance(values, (str, bytes)):
        raise fail_type(argument, f"a sequence with one {each} a score", values)
    as_list = getattr(values, "tolist", None)
    found = list(values) if as_list is None else as_list()
    if len(found) == count:
        if sorted(places) == list(range(count)) != list(places):
            raise fail(
                argument,
                "a mapping from indices for scores in another order than the dataset's",
                Words(f"{count} in the order of a sequence"),
                f"`dict(enumerate({each}s))` if they are in the dataset's order, "
                f"`dict(zip(scores.indices.tolist(), {each}s))` if in that of the scores.",
            )
        return found
    if scores.indices is not None and len(found) > max(places, default=-1):
        return [found[place] for place in places]  # one for each sample of the dataset
    raise fail(
        argument,
        f"one for each of {count} scores",
        Words(f"{len(found)} {each}{'s' * (len(found) != 1)}"),
    )


def _ranks(values: Tensor) -> tuple[list[int | None], list[float | None]]:
    """Rank and percentile of each sample; None where its score is NaN."""
    ranked = int((~values.isnan()).sum())
    ranks: list[int | None] = [None] * len(values)
    percentiles: list[float | None] = [None] * len(values)
    for place, index in enumerate(select(values, ranked).tolist()):
        ranks[index] = place + 1
        percentiles[index] = 1 - place / (ranked - 1) if ranked > 1 else 1.0
    return ranks, percentiles


def _known(values: Tensor) -> list[float | None]:
    # The shortest digits that give the float32 back: 0.1, not 0.10000000149011612.
    numbers = values.tolist() if values.dtype == torch.float64 else map(_short, values.numpy())
    return [None if math.isnan(number) else number for number in numbers]


def _short(number: Any) -> float:
    return float(str(number))


def _in_utf8(values: list[Any]) -> list[Any]:
    """The same with escapes for what is no text in UTF-8, which Parquet's texts are."""
    return [
        v.encode("utf-8", "backslashreplace").decode() if isinstance(v, str) else v for v in values
    ]


def _in_json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
