"""Which batches are verified, and which of their samples."""

import random
from dataclasses import replace

import torch
from torch import Tensor

from fastgradnorm._engine import Plan
from fastgradnorm._model import Batch

_MOST = 8  # batches or plans after the first, with `verify="sampled"`
_FIRST = 8  # no batch before this one is drawn: the first one has just been looked at
# Of the others PyTorch turns no rows round.
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
_STEP = 4  # one batch is drawn of each stretch so many times as long as the one before


class Choice:
    """Draws batches and samples by a seed of its own.

    Args:
        mode: `"first"`, `"sampled"` or `"all"`.
        seed: The option.
    """

    def __init__(self, mode: str, seed: int) -> None:
        self.mode = mode
        self._random = random.Random(seed)
        self._number, self._drawn = 0, self._random.randrange(_FIRST, _FIRST * _STEP)
        self._stretch, self._more = _FIRST * _STEP, 0
        self._known: set[tuple[tuple[str, str], ...]] = set()

    def batch(self) -> bool:
        """Whether the next batch is looked at; asked once for each, in order."""
        number, self._number = self._number, self._number + 1
        if number == 0 or self.mode == "all":
            return True
        if self.mode != "sampled" or number != self._drawn:
            return False
        self._drawn = self._random.randrange(self._stretch, self._stretch * _STEP)
        self._stretch *= _STEP
        return self._is_left()

    def plan(self, plan: Plan) -> bool:
        """Whether a plan that was just made is looked at: each way of using the model, once.

        Not each shape: texts have plans for every length.
        """
        way = tuple((use.operation, use.layer) for use in plan.uses)
        new = way not in self._known
        first = not self._known
        self._known.add(way)
        return new and not first and self.mode == "sampled" and self._is_left()

    def _is_left(self) -> bool:
        self._more += 1
        return self._more <= _MOST

    def blocks(self, samples: int, size: int) -> list[slice]:
        """So many samples of a batch in a row; with `"all"` each once, and none without another."""
        if self.mode == "all":
            starts = [*range(0, samples - 1, size)]
            return [slice(a, b) for a, b in zip(starts, [*starts[1:], samples], strict=True)]
        start = 0 if self._number <= 1 else self._random.randrange(samples - size + 1)
        return [slice(start, start + size)]

    def pair(self, samples: int) -> list[int]:
        """Two of them in order, or the only one; the first batch's first one always."""
        if samples == 1:
            return [0]
        first = 0 if self._number <= 1 else self._random.randrange(samples - 1)
        return [first, self._random.randrange(first + 1, samples)]


def joined(first: Batch, second: Batch) -> Batch | None:
    """Two batches as one; None if their samples differ in shape."""
    alike = [a.shape[1:] == b.shape[1:] for a, b in zip(first.leaves, second.leaves, strict=False)]
    if len(first.leaves) != len(second.leaves) or not all(alike):
        return None

    def cat(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None or a.shape[1:] != b.shape[1:] else torch.cat([a, b])

    leaves = tuple(torch.cat(pair) for pair in zip(first.leaves, second.leaves, strict=True))
    return replace(
        second,
        leaves=leaves,
        mask=cat(first.mask, second.mask),
        attention_mask=cat(first.attention_mask, second.attention_mask),
        target=cat(first.target, second.target),
    )


def moved(batch: Batch) -> Batch:
    """A batch of one joined by another sample like it: its numbers moved, or turned round."""

    def other(leaf: Tensor) -> Tensor:
        if leaf.is_floating_point() or leaf.is_complex():
            # Of floating point of 8 bits PyTorch has no products.
            wide = leaf.float() if leaf.dtype.itemsize == 1 else leaf
            return (wide * 0.75 + 0.125 * wide.abs().mean()).to(leaf.dtype)
        if leaf.dim() <= 1:
            return leaf
        return leaf.view(_SIGNED.get(leaf.dtype, leaf.dtype)).flip(-1).view(leaf.dtype)

    leaves = tuple(torch.cat([leaf, other(leaf)]) for leaf in batch.leaves)

    def twice(mask: Tensor | None) -> Tensor | None:
        return None if mask is None else torch.cat([mask, mask])

    mask, attention = twice(batch.mask), twice(batch.attention_mask)
    target = twice(batch.target)
    return replace(batch, leaves=leaves, mask=mask, attention_mask=attention, target=target)
