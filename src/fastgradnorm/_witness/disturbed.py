"""Whether samples leave each other alone in one pass, also where some are far from all others.

What mixes samples may do so only now and then: a batch that is scaled down where its largest number
is too large, or that takes another way where any of its numbers is, shows nothing of it on ordinary
samples, and scores would be others where a later one is not ordinary.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fastgradnorm._engine import Engine
from fastgradnorm._model import Batch
from fastgradnorm._witness.logits import agree

_FAR = 1e3  # times the largest number of a batch
_ROWS = 4  # samples that show it: of two in turn the others are changed, in two ways each


class Disturbed:
    """Finds out once whether samples have the same logits when others in their batch are others.

    Args:
        engine: Runs the model on all samples at once.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stay: bool | None = None

    def stay(self, batch: Batch) -> bool:
        """Whether every other sample of the first batch that was asked about is as it was."""
        if self._stay is None:
            batch = batch.take(slice(0, _ROWS))
            usual = self._engine.passes.rows(batch)
            self._stay = usual is not None and all(
                self._stays(batch, usual, first) for first in (0, 1)
            )
        return self._stay

    def _stays(self, batch: Batch, usual: Tensor, first: int) -> bool:
        """The same of rows `1 - first`, `3 - first` and so on."""

        def tried(others: Mapping[int, list[Callable[[Tensor], Tensor]]]) -> bool | None:
            """With others in place of the rows between; None where the model fails on these."""
            leaves = [
                _with_others(leaf, first, others[i]) if i in others else leaf
                for i, leaf in enumerate(batch.leaves)
            ]
            found = self._engine.passes.rows(replace(batch, leaves=tuple(leaves)))
            if found is None:
                return None
            kept = slice(1 - first, None, 2)
            alike = found.shape == usual.shape
            return alike and (len(found) < 2 or agree(self._engine, usual[kept], found[kept]))

        # A number may be a place in a table, and a GPU that looked beyond it could do no more.
        if self._engine.subject.device.type == "cpu":
            beyond = {i: _beyond(leaf) for i, leaf in enumerate(batch.leaves)}
            found = tried(beyond)
            if found is not None:
                return found
            if len(beyond) > 1 and any(tried({i: way}) is False for i, way in beyond.items()):
                return False
        return tried({i: _within(leaf) for i, leaf in enumerate(batch.leaves)}) is True


def _with_others(leaf: Tensor, first: int, others: list[Callable[[Tensor], Tensor]]) -> Tensor:
    """A copy with others in place of every second row from `first` on, in turn."""
    made = leaf.clone()
    for row in range(first, len(leaf), 2):
        made[row] = others[(row // 2 + first) % len(others)](leaf[row])
    return made


def _within(leaf: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """The largest and the smallest number of the batch at each place."""
    if leaf.is_complex() or not leaf.numel():
        return [lambda row: row]
    # Of floating point of 8 bits, and of unsigned numbers of more, PyTorch has no maximum.
    wide = leaf.float() if leaf.dtype.itemsize == 1 and leaf.is_floating_point() else leaf
    wide = wide if leaf.is_floating_point() else leaf.to(torch.int64)
    most, least = wide.amax(0).to(leaf.dtype), wide.amin(0).to(leaf.dtype)
    return [lambda _: most, lambda _: least]


def _beyond(leaf: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """Numbers far above and far below all of the batch, as far as there are such, and zeros."""
    if leaf.is_floating_point() or leaf.is_complex():
        wide = leaf.float() if leaf.dtype.itemsize == 1 else leaf
        least, most = None, None
    else:
        wide = leaf.double()
        limits = None if leaf.dtype == torch.bool else torch.iinfo(leaf.dtype)
        # The largest of 64 bits is none of float64.
        least, most = (0, 1) if limits is None else (limits.min, min(limits.max, 1 << 62))
    size = wide.abs().nan_to_num(0.0, 0.0, 0.0).amax() if leaf.numel() else 0.0

    def far(row: Tensor, sign: int) -> Tensor:
        found = _FAR * (row.to(wide.dtype) + sign * size)
        found = found if least is None else found.clamp(least, most)
        return found.to(leaf.dtype)

    return [lambda row: far(row, 1), lambda row: far(row, -1), torch.zeros_like]
