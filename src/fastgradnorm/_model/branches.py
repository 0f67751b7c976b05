"""Values that a model reads while it runs on many samples at once, to decide what it does next.

The samples must agree on them. To read one, the host waits for the device, and a captured pass
cannot. So what was read once is noted; a pass may be told to take that as given, and to leave for
afterwards whether it still holds.
"""

from collections.abc import Callable
from typing import Any

import torch
from fastgradnorm_kernels import functorch
from torch import Tensor


class DivergentControlFlowError(Exception):
    """The samples of one batch take different branches; `values` `[N]` tells which."""

    def __init__(self, values: Tensor) -> None:
        super().__init__("the samples of a batch take different branches")
        self.values = values


class ValueReadError(RuntimeError):
    """A pass is to be repeated without Python, of which that needs a number."""


class Branches:
    """Reads values, and notes them.

    Attributes:
        noted: In the order in which they were read: the row of all samples, and the value.
    """

    def __init__(self) -> None:
        self.noted: list[tuple[Tensor, Any]] = []

    def read(self, func: Callable[[Tensor], Any], tensor: Tensor, reading: str) -> Any:
        """`func`, such as `Tensor.__bool__`, of what all samples of a vmapped tensor have.

        Raises:
            DivergentControlFlowError: If they differ, as far as `reading` tells them apart.
        """
        tensor, rows = _rows(tensor, reading)
        if not bool((rows == rows[0]).all()):
            raise DivergentControlFlowError(rows)
        value = func(tensor[0])
        self.noted.append((rows[0].clone(), value))
        return value

    def aside(self, reading: str) -> None:
        """Another value is read, which is of no sample: such as of a parameter."""


class Foreseen(Branches):
    """Gives the values that another pass has noted, and reads none.

    Args:
        branches: Of that pass.
    """

    def __init__(self, branches: Branches) -> None:
        super().__init__()
        self.noted = branches.noted
        self._alike: list[Tensor] = []

    def read(self, func: Callable[[Tensor], Any], tensor: Tensor, reading: str) -> Any:
        """What was noted at this place.

        Raises:
            DivergentControlFlowError: If there was no such place.
        """
        _, rows = _rows(tensor, reading)
        if len(self._alike) == len(self.noted) or rows[0].shape != self.noted[self.at][0].shape:
            raise DivergentControlFlowError(rows)
        row, value = self.noted[self.at]
        self._alike.append((rows == row).all())
        return value

    def aside(self, reading: str) -> None:
        """It may be another one before the next pass.

        Raises:
            ValueReadError: Always.
        """
        raise ValueReadError(
            f"the model reads a number from a tensor that is of no sample, by `{reading}`"
        )

    @property
    def at(self) -> int:
        """How many have been given."""
        return len(self._alike)

    def hold(self) -> Tensor | None:
        """Whether every sample has the values that were given; None if none was."""
        return torch.stack(self._alike).all() if self._alike else None


def _rows(tensor: Tensor, reading: str) -> tuple[Tensor, Tensor]:
    """Without wrappers, and as far as `reading` tells values apart: `[N, *]`, `[N, elements]`."""
    tensor = functorch.samples(tensor)
    rows = tensor.reshape(len(tensor), -1)
    if reading in ("__bool__", "is_nonzero"):
        rows = rows.bool()
    elif reading in ("__int__", "__index__"):  # what is not finite is read as it is, and refused
        whole = rows.trunc() if rows.is_floating_point() else rows
        rows = torch.where(rows.isfinite(), whole, rows)
    if rows.is_floating_point():  # NaN is a value like any other here
        rows = rows.nan_to_num(nan=torch.finfo(rows.dtype).max, posinf=torch.inf, neginf=-torch.inf)
    return tensor, rows
