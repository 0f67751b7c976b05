"""The geometry of windows that move over a tensor's space, as those of convolutions and pools."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Geometry(NamedTuple):
    """One number for each dimension of space, of each."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def padded(self, space: Sequence[int]) -> tuple[int, ...]:
        """Sizes of the input with its zeros."""
        return padded_sizes(space, self.padding)

    def reach(self) -> tuple[int, ...]:
        """From the first to the last value that a window sees."""
        sizes = zip(self.kernel_size, self.dilation, strict=True)
        return tuple(d * (k - 1) for k, d in sizes)

    def out(self, space: Sequence[int]) -> tuple[int, ...]:
        """How many positions the windows have, of an input of that size."""
        sizes = zip(self.padded(space), self.reach(), self.stride, strict=True)
        return tuple((size - reach - 1) // step + 1 for size, reach, step in sizes)


def padded_sizes(space: Sequence[int], padding: Sequence[int]) -> tuple[int, ...]:
    """Sizes with zeros before and after."""
    return tuple(size + 2 * pad for size, pad in zip(space, padding, strict=True))


def sizes(value: Any, dims: int) -> tuple[int, ...]:
    """An option as PyTorch takes it, a number or one for each dimension, as the latter."""
    found = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return found * dims if len(found) == 1 else found
