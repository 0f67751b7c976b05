"""Samples of a pool, with a name each."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastgradnorm.cli._failures import BadInputError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Pool:
    """What is scored.

    Attributes:
        dataset: Inputs by index: a tensor, or a mapping of them.
        ids: A name for each sample: the file, or the row.
        picture: From an index to an image, where samples are images.
        left_out: What was not read, and why.
        root: The folder that the files are in, where samples are files.
        files: Of each sample, relative to it.
        texts: The samples, where they are texts.
        columns: Those of a table that are inputs.
    """

    dataset: Dataset[Any]
    ids: Sequence[Any]
    picture: "Callable[[int], Image.Image] | None" = None
    left_out: Sequence[str] = ()
    root: Path | None = None
    files: Sequence[str] = ()
    texts: Sequence[str] | None = None
    columns: Sequence[str] = ()

    def path(self, index: int) -> Path:
        """The file of a sample."""
        assert self.root is not None
        return self.root / self.files[index]

    def named(self, indices: Sequence[int], most: int = 8) -> str:
        """The first of these samples by name."""
        names = ", ".join(str(self.ids[i]) for i in indices[:most])
        more = len(indices) - most
        return names + (f" and {more:,} other{'s' * (more > 1)}" if more > 0 else "")

    def links(self, folder: Path) -> Callable[[int], str] | None:
        """From an index to the address of its file on a page in `folder`; None of other samples."""
        if self.root is None:
            return None

        def link(index: int) -> str:
            file = self.path(index).resolve()
            try:
                place = os.path.relpath(file, folder.resolve())
            except ValueError:  # on another drive
                return file.as_uri()
            return quote(os.fsencode(place.replace(os.sep, "/")))

        return link


_OF_PICTURES = (
    "Let it end with `torch.from_numpy(np.array(image)).permute(2, 0, 1)`, scaled as in training."
)


class OneShape:
    """Lets through what a transform made of samples, as long as batches can be made of it.

    Args:
        cure: What to do where it made no tensor.
    """

    def __init__(self, cure: str = _OF_PICTURES) -> None:
        self._cure = cure
        self._first: tuple[Any, str] | None = None

    def __call__(self, made: Any, name: str) -> Any:
        """`made`, of the sample of this name.

        Raises:
            BadInputError: If it is no tensor, or of another shape than that of the first sample.
        """
        if made is None or not isinstance(made, (Tensor, np.ndarray, Mapping, tuple, list)):
            raise BadInputError(
                f"The transform must return a tensor. It returned {type(made).__name__} for "
                f"{name}. {self._cure}"
            )
        shape = [*made.shape] if isinstance(made, (Tensor, np.ndarray)) else None
        first, whose = self._first = self._first or (shape, name)
        if shape != first:
            raise BadInputError(
                f"The transform must return tensors of one shape. It returned {first} for {whose}, "
                f"{shape} for {name}. Resize or crop in it, as in training."
            )
        return made


class Arrays(Dataset[Any]):
    """Rows of arrays: of one as tensors, of several as mappings by name; with labels as pairs.

    Args:
        arrays: By name, with a row a sample.
        labels: `[N]`, or None.
        transform: From a row to the model's input, or None: it is the row.
        names: Of the samples, if they have any, by which errors tell of them.
        rows: Of the samples in their file, where some were left out.
    """

    def __init__(
        self,
        arrays: Mapping[str, Tensor],
        labels: Tensor | None = None,
        transform: Callable[[Any], Any] | None = None,
        names: Sequence[Any] = (),
        rows: Sequence[int] = (),
    ) -> None:
        self.arrays, self.labels = dict(arrays), labels
        self._transform, self._names, self._rows = transform, names, rows
        self._fits = OneShape("Let it return what the model takes of one sample.")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> Any:
        row = {name: array[index] for name, array in self.arrays.items()}
        inputs = next(iter(row.values())) if len(row) == 1 else row
        if self._transform is not None:
            inputs = self._made(self._transform, row, index)
        return inputs if self.labels is None else (inputs, self.labels[index])

    def _made(self, transform: Callable[[Any], Any], row: Mapping[str, Tensor], index: int) -> Any:
        """What the transform makes of a row, which is a copy: it may write into it."""
        own = {name: value.clone() for name, value in row.items()}
        given = next(iter(own.values())) if len(own) == 1 else own
        name = f"row {self._rows[index] if self._rows else index}" + (
            f", {self._names[index]!s:.60}," if self._names else ""
        )
        try:
            made = transform(given)
        except Exception as error:
            shapes = ", ".join(f"{v.dtype} {[*v.shape]}" for v in row.values())
            raise BadInputError(
                f"The transform failed on {name}: {type(error).__name__}: {error}. It is given "
                f"each sample by itself, here {shapes.replace('torch.', '')}."
            ) from error
        return self._fits(made, name)


def labels_of(name: str, array: np.ndarray, count: int) -> Tensor:
    """Labels as they are: integers, or values in float32."""
    if array.ndim == 0 or len(array) != count or array.dtype.kind not in "biuf":
        raise BadInputError(
            f"`--target` must have one label, a number, for each of {count} rows. Got "
            f"{array.dtype} {list(array.shape)} in {name!r}."
        )
    kind = np.float32 if array.dtype.kind == "f" else np.int64
    return torch.from_numpy(np.ascontiguousarray(array, dtype=kind))
