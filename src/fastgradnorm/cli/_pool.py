"""The pool a command scores: a folder of images, or a file of arrays."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from torch import Tensor

from fastgradnorm.cli._failures import BadInputError, told
from fastgradnorm.cli._fitting import check_there
from fastgradnorm.cli._missing import complete
from fastgradnorm.cli._samples import Arrays, Pool, labels_of
from fastgradnorm.cli._table_pool import Reading, open_table, texts_in
from fastgradnorm.cli._tables import TABLES, read_parquet


def open_pool(
    path: Path,
    *,
    keys: Sequence[str] = (),
    id_key: str | None = None,
    target: str | None = None,
    transform: Callable[[Any], Tensor] | None = None,
    image_size: int | None = None,
    skip_bad: bool = False,
    every_frame: bool = False,
    reading: Reading | None = None,
) -> Pool:
    """Opens a folder of images, or a file of arrays, numbers or texts.

    Args:
        path: The folder or file.
        keys: Arrays or columns that are the model's inputs; all but the ids if there are none.
        id_key: Array or column with a name for each sample.
        target: Array or column of labels.
        transform: A sample as the file has it to the model's input: a picture, or a row.
        image_size: Images are resized to squares of it; only for folders.
        skip_bad: Leave out images that cannot be read.
        every_frame: Of files that hold several images, take each.
        reading: How texts are read; None: there is nothing that would take them.

    Raises:
        BadInputError: If it cannot be read as that.
    """
    if path.is_dir():
        if target is not None:
            raise BadInputError(f"`--target` must be of a file of arrays. Got the folder {path}.")
        if image_size is not None and transform is not None:
            raise BadInputError(
                "`--image-size` must be left out: MODEL comes with a transform, which alone makes "
                "the model's input of an image. Resize in it."
            )
        from fastgradnorm.cli._images import open_folder

        images, left_out = open_folder(path, transform, image_size, skip_bad, every_frame)
        files = [name for name, _ in images.places]
        return Pool(images, images.names, images.picture, left_out, path, files)
    check_there(path)
    suffix = path.suffix.lower()
    if suffix in TABLES or (suffix == ".parquet" and texts_in(path, reading, keys, id_key, target)):
        return open_table(path, reading, keys, id_key, target, skip_bad, transform)
    readers = {".npz": _npz, ".npy": _npy, ".safetensors": _safetensors, ".parquet": _parquet}
    try:
        columns = readers[suffix](path)
    except OSError as error:
        raise BadInputError(f"`POOL` cannot be read. {told(error)}") from error
    kept: Sequence[int] = ()
    without: list[str] = []
    if suffix == ".parquet":
        columns, kept, without = _complete(columns, keys, id_key, path, skip_bad)
    ids = columns.pop(id_key, None) if id_key else None
    if id_key and ids is None:
        raise BadInputError(f"`--ids` must be one of {', '.join(columns)}. Got {id_key!r}.")
    labels = columns.pop(target, None) if target else None
    if target and labels is None:
        raise BadInputError(f"`--target` must be one of {', '.join(columns)}. Got {target!r}.")
    missing = [key for key in keys if key not in columns]
    if missing:
        raise BadInputError(f"`--key` must be one of {', '.join(columns)}. Got {missing[0]!r}.")
    as_it_is = transform is not None
    named = bool(id_key)
    arrays = {key: _input(key, columns[key], as_it_is, suffix, named) for key in keys or columns}
    count = _one_length(arrays)
    names: Sequence[Any] = (kept or range(count)) if ids is None else list(ids.tolist())
    if len(names) != count:
        raise BadInputError(f"`--ids` must have one name for each of {count} rows.")
    if len(arrays) > 1:
        in_a_row = suffix == ".parquet" and _are_numbers(arrays, reading)
        if not keys:
            how = "in this order" if in_a_row else "by these names"
            what = "the columns " if in_a_row else ""
            typer.echo(f"Inputs: {what}{', '.join(arrays)}, {how}; choose with --key.", err=True)
        if in_a_row:  # as of the same table in a CSV
            arrays = {"columns": torch.stack([each.float() for each in arrays.values()], 1)}
    known = None if labels is None else labels_of(str(target), labels, count)
    told_of = names if id_key else ()
    return Pool(Arrays(arrays, known, transform, told_of, kept), names, None, without)


def _one_length(arrays: Mapping[str, Tensor]) -> int:
    """How many samples there are."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if not arrays or len(set(lengths.values())) > 1 or 0 in lengths.values():
        told_lengths = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise BadInputError(
            f"`POOL` must hold arrays with one row a sample. Got {told_lengths or 'none'}. "
            "Choose them with --key."
        )
    return next(iter(lengths.values()))


def _complete(
    columns: dict[str, np.ndarray], keys: Sequence[str], id_key: str | None, path: Path, skip: bool
) -> tuple[dict[str, np.ndarray], list[int], list[str]]:
    """Columns without the rows that lack a number, which rows stay, and what the others lack."""
    lists = {name: values.tolist() for name, values in columns.items() if values.dtype == object}
    read = {name: v for name, v in lists.items() if name in (keys or columns) and name != id_key}
    if not read:
        return columns, [], []
    count = len(next(iter(columns.values())))
    names = columns[id_key].tolist() if id_key in columns else range(count)
    whole, left_out = complete(read, names, path, skip)
    if not left_out:
        return columns, [], []
    found = {
        name: np.array([lists[name][row] for row in whole]) if name in lists else values[whole]
        for name, values in columns.items()
    }
    return found, whole, left_out


def _are_numbers(arrays: dict[str, Tensor], reading: Reading | None) -> bool:
    """Whether columns are a number each, of a model that does not take them by their names."""
    if any(each.dim() != 1 for each in arrays.values()):
        return False
    if reading is None:
        return True
    parameters = inspect.signature(reading.model.forward).parameters
    return not all(name in parameters for name in arrays)


def _input(name: str, array: np.ndarray, as_it_is: bool, suffix: str, named: bool) -> Tensor:
    """A tensor for the model; pictures in bytes become `[C, H, W]` in [0, 1].

    Where `as_it_is`, for a transform that was written for them, they stay bytes.
    """
    if array.ndim == 0:
        raise BadInputError(f"{name!r} must have one row a sample. Got a single number.")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype == np.uint8 and not as_it_is:
        if array.ndim == 4 and array.shape[-1] in (1, 3, 4):
            array = array.transpose(0, 3, 1, 2)
        return torch.from_numpy(array.astype(np.float32) / 255)
    try:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
    except TypeError as error:
        strings = array.dtype.kind in "SU"
        names = f" If it names the samples: --ids {name}." if strings and not named else ""
        texts = f" For texts as inputs: --text {name}." if strings and suffix == ".parquet" else ""
        raise BadInputError(
            f"{name!r} must hold numbers. Got {'texts' if strings else array.dtype}. Choose the "
            f"inputs with --key.{names}{texts}"
        ) from error
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _npz(path: Path) -> dict[str, np.ndarray]:
    with _arrays_alone(path), path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _npy(path: Path) -> dict[str, np.ndarray]:
    with _arrays_alone(path), path.open("rb") as raw:
        return {path.stem: np.load(raw, allow_pickle=False)}


@contextlib.contextmanager
def _arrays_alone(path: Path) -> Iterator[None]:
    """Tells of what is read inside that it is no file of arrays."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        raise BadInputError(
            f"`POOL` {path} is damaged, or holds objects that are no arrays (nothing in it was "
            f"executed): {str(error).partition('. If you trust')[0].rstrip('.')}."
        ) from error


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise BadInputError(f"`POOL` {path} is damaged: {error}.") from error


def _parquet(path: Path) -> dict[str, np.ndarray]:
    columns = {}
    for name, rows in read_parquet(path).items():
        try:
            columns[name] = np.array(rows)
        except ValueError as error:
            raise BadInputError(
                f"Column {name!r} of {path} must hold rows of one length. {error}"
            ) from error
    return columns
