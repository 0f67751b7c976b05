"""A pool in a table: texts, or rows of numbers."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from torch import nn

from fastgradnorm.cli._failures import BadInputError, told
from fastgradnorm.cli._missing import are_numbers, complete
from fastgradnorm.cli._samples import Arrays, Pool, labels_of
from fastgradnorm.cli._tables import (
    column,
    is_text,
    numbers,
    read_parquet,
    read_table,
    without_names,
)
from fastgradnorm.cli._texts import Texts, by_transform, usable
from fastgradnorm.cli._tokenizing import load_tokenizer


@dataclass(frozen=True)
class Reading:
    """How texts become inputs.

    Attributes:
        model: What takes them.
        column: Of the texts; None: it is looked for.
        tokenizer: Its folder or name; None: there is none.
        transform: What the model's function returned beside it, in place of a tokenizer.
        max_length: Tokens of a text, at most.
    """

    model: nn.Module
    column: str | None
    tokenizer: str | None
    transform: Callable[[Any], Any] | None
    max_length: int | None


def open_table(
    path: Path,
    reading: Reading | None,
    keys: Sequence[str],
    id_key: str | None,
    target: str | None,
    skip_bad: bool,
    transform: Callable[[Any], Any] | None = None,
) -> Pool:
    """Opens a .csv, .jsonl, .txt or .parquet file.

    With a column of texts these are the samples; else all columns, or those of `keys`, are numbers
    and one input, `[columns]` a sample, or what `transform` makes of it.

    Raises:
        BadInputError: If it cannot be read as that.
    """
    try:
        columns = read_parquet(path) if path.suffix.lower() == ".parquet" else read_table(path)
    except OSError as error:
        raise BadInputError(f"`POOL` cannot be read. {told(error)}") from error
    count = len(next(iter(columns.values()), ()))
    if not count:
        raise BadInputError(f"`POOL` must hold at least one sample. Got none in {path}.")
    names = [*range(count)] if id_key is None else column(columns, id_key, "--ids")
    rest = {name: v for name, v in columns.items() if name not in (id_key, target)}
    name = _text_column(path, rest, reading, keys)
    chosen: dict[str, list[Any]] = {}
    if name is None:
        chosen = {key: column(columns, key, "--key") for key in keys} if keys else rest
    known = {} if target is None else {target: column(columns, target, "--target")}
    whole, left_out = complete(chosen | known, names, path, skip_bad)
    if left_out:
        columns = {key: [values[row] for row in whole] for key, values in columns.items()}
        chosen = {key: columns[key] for key in chosen}
        names = [names[row] for row in whole]
    labels = None if target is None else _labels(target, columns[target], path)
    if name is None:
        table = _numbers(chosen, path, id_key is not None)
        if without_names([*chosen]) and path.suffix.lower() in (".csv", ".tsv"):
            typer.echo(
                f"warning: the first line of {path} is read as names of columns, and has numbers: "
                f"{', '.join(chosen)}. Put names in a line before it.",
                err=True,
            )
        if not keys and len(chosen) > 1:
            typer.echo(
                f"Inputs: the columns {', '.join(chosen)}, in this order; choose with --key.",
                err=True,
            )
        arrays = Arrays({"table": table}, labels, transform, names if id_key else (), whole)
        return Pool(arrays, names, None, left_out, columns=[*chosen])
    texts = column(columns, name, "--text")
    kept, without = usable(texts, names, path, skip_bad)
    texts, names = [texts[i] for i in kept], [names[i] for i in kept]
    labels = None if labels is None else labels[kept]
    make = _maker(reading, texts)
    left_out = [*left_out, *without]
    return Pool(Texts(texts, make, labels), names, None, left_out, texts=texts, columns=[name])


def _labels(name: str, values: list[Any], path: Path) -> torch.Tensor:
    found = numbers(name, values, path)
    whole = bool((found == found.astype(np.int64)).all())
    return labels_of(name, found.astype(np.int64) if whole else found, len(values))


def _advice(name: str, chosen: Mapping[str, list[Any]], named: bool) -> str:
    """What to do about a column that holds no numbers; ready to be written behind the command."""
    inputs = [key for key, values in chosen.items() if are_numbers(values)]
    told = "" if named else f"If it names the samples: --ids {shlex.quote(name)}. "
    if inputs:
        keys = " ".join(f"--key {shlex.quote(key)}" for key in inputs)
        told += f"Inputs are chosen by {keys}, without what is none, such as a label. "
    return f"{told}For texts as inputs: --text {shlex.quote(name)}."


def _numbers(chosen: Mapping[str, list[Any]], path: Path, named: bool) -> torch.Tensor:
    """The columns side by side, `[N, columns]`; `named`: samples have names."""
    arrays = [
        numbers(key, values, path, "" if are_numbers(values) else _advice(key, chosen, named))
        for key, values in chosen.items()
    ]
    flat = [array[:, None] if array.ndim == 1 else array for array in arrays]
    if not flat or len({array.shape[2:] for array in flat}) > 1:
        raise BadInputError(f"`POOL` must have columns of numbers. Choose them with --key: {path}.")
    return torch.from_numpy(np.concatenate(flat, 1)).float()


def _text_column(
    path: Path, columns: dict[str, list[Any]], reading: Reading | None, keys: Sequence[str]
) -> str | None:
    """The column of texts, asked for or found; None where the columns are numbers."""
    if reading is not None and reading.column is not None:
        return reading.column
    if path.suffix.lower() == ".txt":
        return "text"
    takes = reading is not None and (reading.tokenizer or reading.transform)
    if keys or not takes:
        return None
    found = [name for name, values in columns.items() if is_text(values)]
    if "text" in found or len(found) == 1:
        name = "text" if "text" in found else found[0]
        typer.echo(f"Texts: the column {name!r}; choose with --text.", err=True)
        return name
    if found:
        raise BadInputError(
            f"`--text` must say which column holds the texts. {path} has {', '.join(found)}."
        )
    return None


def texts_in(
    path: Path, reading: Reading | None, keys: Sequence[str], id_key: str | None, target: str | None
) -> bool:
    """Whether a .parquet is read as a table of texts: it was asked for, or it has some to choose.

    Any other is read as arrays, of which a row may be a list of numbers.
    """
    import pyarrow
    import pyarrow.parquet

    if reading is not None and reading.column is not None:
        return True
    if keys or reading is None or not (reading.tokenizer or reading.transform):
        return False
    try:
        schema = pyarrow.parquet.read_schema(path)
    except (OSError, pyarrow.ArrowException):
        return False  # told where it is read
    kinds = {field.name: field.type for field in schema if field.name not in (id_key, target)}
    plain = (k.value_type if pyarrow.types.is_dictionary(k) else k for k in kinds.values())
    return any(pyarrow.types.is_string(k) or pyarrow.types.is_large_string(k) for k in plain)


def _maker(reading: Reading | None, texts: Sequence[str]) -> Callable[[list[str]], list[Any]]:
    if reading is not None and reading.transform is not None and reading.tokenizer is None:
        return by_transform(reading.transform)
    if reading is not None and reading.transform is not None:
        raise BadInputError(
            "`--tokenizer` must be left out: MODEL returns a transform beside the model, which "
            "makes an input of each text. Let it return the model alone to read texts by a "
            "tokenizer."
        )
    if reading is None or reading.tokenizer is None:
        raise BadInputError(
            "`--tokenizer` must be given for texts: a folder, or a name of Hugging Face's. Or let "
            "the model's function return (model, transform), from a text to its input."
        )
    return load_tokenizer(reading.tokenizer, reading.model, reading.max_length, texts)
