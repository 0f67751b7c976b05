"""What has labels already, as the command line is told: names in the pool, or other samples."""

import json
from pathlib import Path
from typing import Any

import typer
from torch.utils.data import DataLoader

from fastgradnorm.atomic import ERRORS
from fastgradnorm.cli._failures import BadInputError, told
from fastgradnorm.cli._files import ENCODING, read_rows
from fastgradnorm.cli._given import Given
from fastgradnorm.cli._pool import open_pool
from fastgradnorm.cli._samples import Pool

_LISTS = (".txt", ".csv", ".tsv", ".jsonl")


def labelled_samples(given: Given, path: Path | None, workers: int) -> Any:
    """Indices of the pool, or a loader of other samples.

    Raises:
        BadInputError: If it cannot be read, or names what is not in the pool.
    """
    if path is None:
        return None
    if path.is_file() and path.suffix.lower() in _LISTS:
        return _indices(given.pool, path)
    if not path.exists() or path.is_file():
        files = (*_LISTS, ".npz", ".npy", ".safetensors", ".parquet")
        if not path.exists() or path.suffix.lower() not in files:
            raise BadInputError(
                f"`--labelled` must be a folder that is there, or one of {', '.join(files)}. Got "
                f"{path}."
            )
    try:
        others = open_pool(path, **given.opening)
    except BadInputError as error:
        raise BadInputError(str(error).replace("`POOL`", "`--labelled`")) from error
    return DataLoader(others.dataset, given.batch_size, num_workers=workers)


def _indices(pool: Pool, path: Path) -> list[int]:
    places: dict[str, int] = {str(name): i for i, name in enumerate(pool.ids)}
    found: dict[int, None] = {}
    for name in _names(path, ERRORS if pool.root is not None else "strict"):
        place = places.get(name, places.get(name.strip()))
        if place is None and pool.root is not None:  # a path, as `--paths` prints it
            inside = _within(pool.root, name)
            place = None if inside is None else places.get(inside)
        if place is None:
            raise BadInputError(
                f"`--labelled` must name samples of the pool. {path} has {name!r}, which is none. "
                "Samples that are not in the pool go into a folder or file of their own."
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
