"""What has labels already, as the command line is told: names in the pool, or other samples."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from torch.utils.data import DataLoader

from fastgradnorm.atomic import ERRORS
from fastgradnorm.cli._failures import BadInputError, told
from fastgradnorm.cli._files import ENCODING, read_rows
from fastgradnorm.cli._fitting import ARRAYS
from fastgradnorm.cli._given import Given
from fastgradnorm.cli._pool import open_pool
from fastgradnorm.cli._same import in_common, loader_of_both
from fastgradnorm.cli._samples import Pool
from fastgradnorm.cli._tables import read_table

_LISTS = (".txt", ".csv", ".tsv", ".jsonl")


def labelled_samples(given: Given, path: Path | None, workers: int) -> Any:
    """Indices of the pool, or a loader of other samples.

    Raises:
        BadInputError: If it cannot be read, or names what is not in the pool.
    """
    if path is None:
        return None
    listed = path.is_file() and path.suffix.lower() in _LISTS
    opening = _as_the_pool(given, path) if listed else given.opening
    if opening is None:
        return _indices(given.pool, path)
    if not path.is_dir() and (not path.exists() or path.suffix.lower() not in (*_LISTS, *ARRAYS)):
        raise BadInputError(
            "`--labelled` must be a folder that is there, or one of "
            f"{', '.join([*_LISTS, *ARRAYS])}. Got {path}."
        )
    try:
        others = open_pool(path, **opening)
    except BadInputError as error:
        raise BadInputError(str(error).replace("`POOL`", "`--labelled`")) from error
    both, rest = in_common(given.pool, others)
    if both:
        typer.echo(
            f"{path}: {len(both):,} of the pool {'is' if len(both) == 1 else 'are'} there too, and "
            "not chosen again.",
            err=True,
        )
    if not rest:
        return both
    if both:
        return loader_of_both(given.pool, both, others, rest, given.batch_size, workers)
    return DataLoader(others.dataset, given.batch_size, num_workers=workers)


def _as_the_pool(given: Given, path: Path) -> dict[str, Any] | None:
    """How to open a table of other samples; None: it names samples of the pool.

    It has the columns that are inputs, and no `id`, or one that has other names than the pool's.
    """
    inputs, suffix = given.pool.columns, path.suffix.lower()
    if not inputs or suffix == ".txt":
        return None
    try:
        columns = read_table(path)
    except (BadInputError, OSError):
        return None  # told where its names are read
    pool = {str(name) for name in given.pool.ids}
    ids = columns.get("id", [])
    named = bool(ids) and all(str(name).strip() in pool for name in ids)
    if named or not all(name in columns for name in inputs):
        return None
    opening = {**given.opening, "keys": () if given.pool.texts else inputs}
    if given.pool.texts:
        opening["reading"] = replace(opening["reading"], column=inputs[0])
    if opening["id_key"] not in columns:
        opening["id_key"] = None
    return opening


def _indices(pool: Pool, path: Path) -> list[int]:
    places: dict[str, int] = {str(name): i for i, name in enumerate(pool.ids)}
    found: dict[int, None] = {}
    for name in _names(path, ERRORS if pool.root is not None else "strict"):
        place = places.get(name, places.get(name.strip()))
        if place is None and pool.root is not None:  # a path, as `--paths` prints it
            inside = _within(pool.root, name)
            place = None if inside is None else places.get(inside)
        if place is None:
            columns = ", ".join(pool.columns)
            kind = f"table of their own that has {columns}" if columns else "folder of their own"
            raise BadInputError(
                f"`--labelled` must name samples of the pool. {path} has {name!r}, which is none. "
                f"Samples that are not in the pool go into a {kind}."
            )
        found[place] = None
    if not found:
        typer.echo(f"warning: `--labelled` {path} names nothing.", err=True)
    return list(found)


def _within(root: Path, name: str) -> str | None:
    try:
        return str(Path(name).resolve().relative_to(root.resolve()))
    except ValueError:
        return None


def _names(path: Path, errors: str) -> list[str]:
    try:
        if path.suffix.lower() in (".csv", ".tsv"):
            return [row["id"] for row in read_rows(path, "id", errors=errors)]
        text = path.read_text(encoding=ENCODING, errors=errors)
        if path.suffix.lower() == ".txt":
            return [line for line in text.split("\n") if line.strip()]
        return [str(json.loads(line)["id"]) for line in text.split("\n") if line.strip()]
    except OSError as error:
        raise BadInputError(f"`--labelled` cannot be read. {told(error)}") from error
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"`--labelled` {path} must be text in UTF-8. At byte {error.start} it is not."
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise BadInputError(
            "`--labelled` must have a name a line (.txt), or a column `id` (.csv, .jsonl). Got "
            f"{path}: {error}"
        ) from error
