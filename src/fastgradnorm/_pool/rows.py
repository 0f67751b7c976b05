"""Rows of numbers beside a checkpoint: as they are, to be read as a memory map.

What a checkpoint tells of a stretch of rows is where it lies, how it is shaped, and its checksum.
"""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class RowsFile:
    """A file to which rows are added.

    Args:
        path: Of the file; made if it is not there.

    Raises:
        OSError: If it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._map: np.memmap[Any, Any] | None = None
        self._end = 0

    def add(self, values: Tensor) -> dict[str, Any]:
        """Writes rows `[n, k]`; how to find them again.

        Raises:
            OSError: If they cannot be written.
        """
        assert self._file is not None
        if self._end == 0:
            self.cut()
        array = values.numpy()
        content = array.tobytes()
        told = {"at": self._end, "shape": list(array.shape), "dtype": array.dtype.str}
        written = 0
        while written < len(content):
            written += os.pwrite(self._file, content[written:], self._end + written)
        self._end += len(content)
        return {**told, "crc": zlib.crc32(content)}

    def read(self, told: dict[str, Any]) -> Tensor | None:
        """Rows as a map of the file, to be followed by others; None: they are not as written."""
        dtype, (count, width) = np.dtype(told["dtype"]), told["shape"]
        start, end = self._end, self._end + dtype.itemsize * count * width
        if told["at"] != start or self.path.stat().st_size < end:
            return None
        self._end = end
        if start == end:
            return torch.from_numpy(np.empty((count, width), dtype))
        if self._map is None:  # copied where it is written to, which nobody does: for torch
            self._map = np.memmap(self.path, np.uint8, "c")
        content = self._map[start:end]
        if zlib.crc32(content.data) != told["crc"]:
            return None
        return torch.from_numpy(content.view(dtype).reshape(count, width))

    def cut(self) -> None:
        """Drops what comes after the last rows, which nobody told of."""
        assert self._file is not None
        if os.fstat(self._file).st_size != self._end:
            os.ftruncate(self._file, self._end)

    def sync(self) -> None:
        """Brings everything to the disk."""
        if self._file is not None:
            os.fsync(self._file)

    def close(self) -> None:
        """Without a last `sync`."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
