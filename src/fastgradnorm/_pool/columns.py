"""Results of a pool, gathered batch by batch."""

import torch
from torch import Tensor


class Columns:
    """Numbers added batch by batch, in little more memory than they need in the end."""

    def __init__(self) -> None:
        self._bytes: dict[str, bytearray] = {}
        self._dtypes: dict[str, torch.dtype] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Appends values `[n]`, on the CPU, of one dtype per name."""
        self._dtypes[name] = values.dtype
        self._bytes.setdefault(name, bytearray()).extend(values.numpy().tobytes())

    def get(self, name: str) -> Tensor | None:
        """All numbers of that name, or None if there are none."""
        found = self._bytes.get(name)
        return torch.frombuffer(found, dtype=self._dtypes[name]) if found else None
