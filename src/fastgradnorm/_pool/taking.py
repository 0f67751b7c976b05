"""What a loader yields, taken as batches of known samples while the model stays as it was."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from fastgradnorm._model import Batch, Reader, Unchanged
from fastgradnorm._pool.draws import Draws
from fastgradnorm._process import tensors_ready


class Taken(NamedTuple):
    """A batch, or several of the caller's as one.

    Attributes:
        batch: Its samples.
        drawn: Which samples of the dataset they are; None: unknown.
        each: How many a batch of the caller's has, of which this is several; None: it is one.
    """

    batch: Batch
    drawn: Tensor | None
    each: int | None


class Taking:
    """Takes the items of one loader, one after the other.

    Args:
        reader: Makes batches of them.
        unchanged: Looks at the model after each is there.
    """

    def __init__(self, reader: Reader, unchanged: Unchanged) -> None:
        self._reader, self._unchanged = reader, unchanged

    def next(self, items: Iterator[tuple[Any, int]], draws: Draws | None) -> Taken | None:
        """The next item; None after the last.

        Args:
            items: What the loader yields, and how many of its items each is.
            draws: Tells their samples, where that can be told.
        """
        self._reader.settle()
        for raw, count in items:
            self._unchanged.check()
            with tensors_ready():
                batch = self._reader.read(raw, None if draws is None else draws.size(count))
            if draws is None:
                return Taken(batch, None, len(batch) // count if count > 1 else None)
            each = len(batch) // count if count > 1 else draws.each
            return Taken(batch, draws.next(len(batch), count), each)
        return None
