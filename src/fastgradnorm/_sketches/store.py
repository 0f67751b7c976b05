"""Sketches of a pool in a folder: read as a memory map, handed on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgradnorm._pool import rows_of
from fastgradnorm._validate import check_choice, check_integer, fail, fail_type

# Without norms, and with them in each row, after the sketches.
KINDS = ("fastgradnorm sketches 1", "fastgradnorm sketches 2")
RUN, INFO, INDICES = "gradients", "info.json", "indices.npy"
_BLOCK = 1 << 24  # elements that are read at a time


def folder_of(path: Any) -> Path:
    """The path of a folder; raises for what is none."""
    if not isinstance(path, (str, Path)):
        raise fail_type("path", "the path of a folder", path)
    return Path(path)


class SketchStore:
    """Sketches of a pool, as `store_sketches` wrote them; none is read before it is asked for.

    `store[i]`, of a number, a slice, a list or a tensor of numbers, is a tensor; `len`, iteration
    over blocks by `blocks`, and NumPy's functions work as well.

    Args:
        path: Of the folder.

    Attributes:
        path: Of the folder.
        info: How the sketches came about, as `PoolScores.provenance` tells it.
        dim: Length of a sketch.
        groups: Of parameters, if each has a sketch of its own; else empty.
        sketches: `[N, dim]`, or `[N, G, dim]` for groups, a read-only memory map of NumPy.
        norms: Of the gradients, `[N]`, or `[N, G]` for groups, likewise; None if not stored.
        indices: Which sample of the dataset each sketch is of, int64 `[N]`; None where they are in
            its order, or cannot be told.

    Raises:
        ValueError: If it is no such folder, not finished, or not as it was written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = folder_of(path)
        try:
            self.info: dict[str, Any] = dict(json.loads((self.path / INFO).read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            begun = any(self.path.glob(f"{RUN}*"))
            advice = (
                "Its run was stopped: call `store_sketches` as before, and it goes on."
                if begun
                else "`store_sketches` makes one."
            )
            wanted = "a folder of sketches that is whole"
            raise fail("path", wanted, str(self.path), advice) from error
        if self.info.get("kind") not in KINDS:
            raise fail("path", f"a folder of {' or '.join(KINDS)}", self.info.get("kind"))
        self.dim, self.groups = int(self.info["dim"]), tuple(self.info["groups"] or ())
        file, dtype = rows_of(self.path / RUN), np.dtype(self.info["numbers"])
        count, width = self.info["count"], self.info["width"]
        size = file.stat().st_size if file.is_file() else 0
        if size != count * width * dtype.itemsize:
            advice = f"{file.name} has {size} bytes. Delete the folder to start anew."
            wanted = f"a folder with {count} sketches"
            raise fail("path", wanted, str(self.path), advice)
        rows = np.memmap(file, dtype, "r", shape=(count, width))
        normed = self.info["kind"] == KINDS[1]
        of_all = width // (self.dim + normed)  # groups, those included that were not counted
        sketches, norms = rows[:, : of_all * self.dim], rows[:, of_all * self.dim :]
        self.sketches: NDArray[Any] = sketches
        self.norms: NDArray[Any] | None = norms[:, 0] if normed else None
        places = self.info["places"]
        if places is not None:
            whole = places == list(range(of_all))
            grouped = sketches.reshape(count, of_all, self.dim)
            self.sketches = grouped if whole else grouped[:, places]
            if normed:
                self.norms = norms if whole else norms[:, places]
        where = self.path / INDICES
        self.indices = torch.from_numpy(np.load(where)) if self.info["moved"] else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of `sketches`."""
        return tuple(self.sketches.shape)

    def __len__(self) -> int:
        return len(self.sketches)

    def __getitem__(self, rows: Any) -> Tensor:
        if isinstance(rows, Tensor):
            rows = rows.cpu().numpy()
        return torch.from_numpy(np.array(self.sketches[rows]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.sketches, dtype) if copy else np.asarray(self.sketches, dtype)

    def __repr__(self) -> str:
        return f"SketchStore({str(self.path)!r}, {' x '.join(map(str, self.shape))})"

    def group(self, name: str) -> NDArray[Any]:
        """Sketches `[N, dim]` of one group of parameters."""
        if not self.groups:
            raise fail("name", "of a group", name, "All have one sketch here, `sketches`.")
        check_choice("name", name, self.groups)
        found: NDArray[Any] = self.sketches[:, self.groups.index(name)]
        return found

    def blocks(self, size: int | None = None) -> Iterator[Tensor]:
        """All sketches, some at a time, `[n, dim]`, of groups one after another `[n, G * dim]`."""
        width = int(np.prod(self.shape[1:]))
        size = max(1, _BLOCK // width) if size is None else check_integer("size", size, at_least=1)
        for start in range(0, len(self), size):
            yield self[start : start + size].flatten(1)

    def to_faiss(self, unit: bool = False) -> Any:
        """A flat index of inner products, whose numbers are those of the rows.

        `faiss.write_index` writes it; any other index takes `blocks` likewise. Sketches of groups
        stand one after another, so that a product is that of the whole gradients.

        Args:
            unit: Divide sketches by their norms, for cosines.

        Raises:
            ModuleNotFoundError: Without faiss: `pip install fastgradnorm[faiss]`.
        """
        try:
            import faiss
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "`to_faiss` needs faiss: `pip install fastgradnorm[faiss]`."
            ) from error
        index = faiss.IndexFlatIP(int(np.prod(self.shape[1:])))
        for block in self.blocks():
            rows = torch.nn.functional.normalize(block.float()) if unit else block.float()
            index.add(rows.numpy())
        return index

    def to_hf(self) -> Any:
        """A `datasets.Dataset` with the columns `index` and `sketch`, or one a group.

        Norms are a column `norm`, or of each group `<group> norm`. The sketches are not copied but
        for those of groups, and where norms stand beside them.

        Raises:
            ModuleNotFoundError: Without datasets: `pip install fastgradnorm[huggingface]`.
        """
        try:
            import datasets
            import pyarrow
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "`to_hf` needs datasets: `pip install fastgradnorm[huggingface]`."
            ) from error
        count = len(self)
        places = np.arange(count) if self.indices is None else self.indices.numpy()
        columns: dict[str, Any] = {"index": pyarrow.array(places)}
        named = {name: self.group(name) for name in self.groups} or {"sketch": self.sketches}
        for name, rows in named.items():
            flat = pyarrow.array(np.ascontiguousarray(rows).reshape(-1))
            columns[name] = pyarrow.FixedSizeListArray.from_arrays(flat, self.dim)
        if self.norms is not None:
            each = self.norms.T if self.groups else self.norms[None]
            names = [f"{name} norm" for name in self.groups] or ["norm"]
            for name, values in zip(names, each, strict=True):
                columns[name] = pyarrow.array(np.ascontiguousarray(values))
        return datasets.Dataset(pyarrow.table(columns))
