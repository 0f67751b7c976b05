"""Texts without the padding at their ends: as long as they are, to the next of a few lengths.

A loader pads the texts of a batch to its longest, so that unsorted ones are mostly padding. It is
left out where the model's own logits, called with and without it, are the same.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from fastgradnorm._engine import Engine
from fastgradnorm._errors import ArgumentError
from fastgradnorm._model import Batch, Given
from fastgradnorm._process import autograd_ready
from fastgradnorm._witness import Witness, same_without

_STEP = 32  # lengths are multiples of it
_TRIED = 4  # samples whose logits are compared


class Trimming:
    """How long the samples of batches are scored.

    Args:
        engine: What scores.
        witness: Looks at plans that are made meanwhile.
    """

    def __init__(self, engine: Engine, witness: Witness) -> None:
        self._engines = [each for each in (engine, engine.also) if each is not None]
        self._witness = witness
        self._widest: int | None = None
        self._bounded = False  # whether there is a plan for the least length

    def begin(self, batch: Batch) -> None:
        """Is shown the first batch of all, of which a process that goes on scores nothing.

        What a batch is as wide as depends on its longest text. Such texts are padded to the next of
        the usual lengths, so that those of many batches are scored at once: up to the width of the
        first batch, for a model may take none that is longer.
        """
        if self._widest is None and batch.attention_mask is not None:
            self._widest = batch.attention_mask.shape[-1]

    def fitted(self, batch: Batch) -> tuple[Batch, list[int]] | None:
        """A batch, padded further if need be, and how long each sample is, to the next step.

        None where that cannot be told, or is no use.
        """
        self.begin(batch)
        mask = batch.attention_mask
        if mask is None or batch.mask is not None or batch.labelled is not None or mask.dim() != 2:
            return None
        width = mask.shape[1]
        if not isinstance(batch.run, Given) or any(isinstance(v, Tensor) for v in batch.run.values):
            return None
        if any(width in leaf.shape[2:] for leaf in batch.leaves):
            return None
        counts = mask.sum(1)
        counted = torch.arange(width, device=mask.device) < counts[:, None]
        if not bool((counted == mask).all()):
            return None
        steps = [-(-max(1, count) // _STEP) * _STEP for count in counts.tolist()]
        wanted = max(width, min(max(steps), self._widest or 0))
        padded = None if wanted == width else widened(batch, counted, wanted)
        if padded is not None:
            batch, width = padded, wanted
        found = [min(width, step) for step in steps]
        return None if min(found) == width and padded is None else (batch, found)

    def plan(self, batch: Batch) -> None:
        """Plans for a batch's width and, once, the least length: others lie between.

        Its own shortest may be longer: which lengths a batch has must make no difference.
        """
        with autograd_ready(), self._witness.scoring():
            for engine in self._engines:
                engine.plan(batch, one_length=False)
                if not self._bounded:
                    with contextlib.suppress(ArgumentError):  # a model of long texts alone
                        engine.plan(trimmed(batch.take(slice(0, 1)), _STEP))
        self._bounded = True


def widened(batch: Batch, counted: Tensor, width: int) -> Batch | None:
    """The same with more padding; None where it is not told by what there is.

    Args:
        batch: Padded samples.
        counted: Which positions are no padding, `[N, T]`.
        width: Of the result.
    """
    mask = batch.attention_mask
    assert mask is not None
    now, leaves = mask.shape[1], list[Tensor]()
    for leaf in batch.leaves:
        if leaf.dim() < 2 or leaf.shape[1] != now:
            leaves.append(leaf)
            continue
        padding = leaf[~counted]
        if not len(padding) or not bool((padding == padding[:1]).all()):
            return None
        leaves.append(
            torch.cat([leaf, padding[:1].expand(len(leaf), width - now, *leaf.shape[2:])], 1)
        )
    mask = torch.cat([mask, mask.new_zeros(len(mask), width - now)], 1)
    return replace(batch, leaves=tuple(leaves), attention_mask=mask)


def trimmed(batch: Batch, length: int) -> Batch:
    """The first `length` positions of samples that have no more."""
    mask = batch.attention_mask
    assert mask is not None
    width = mask.shape[1]

    def cut(leaf: Tensor) -> Tensor:
        return leaf[:, :length] if leaf.dim() > 1 and leaf.shape[1] == width else leaf

    return replace(batch, leaves=tuple(map(cut, batch.leaves)), attention_mask=mask[:, :length])


def is_harmless(engine: Engine, batch: Batch, lengths: list[int]) -> bool | None:
    """Whether samples of a batch have the same logits without their padding; None: none has any."""
    assert batch.attention_mask is not None
    width = batch.attention_mask.shape[1]
    places = sorted((i for i, n in enumerate(lengths) if n < width), key=lengths.__getitem__)
    if not places:
        return None
    tried = {places[round(i * (len(places) - 1) / (_TRIED - 1))] for i in range(_TRIED)}
    with autograd_ready():
        if len(engine.plan(batch).logits_shape) != 1:
            return False
        ones = [(batch.take(slice(i, i + 1)), lengths[i]) for i in sorted(tried)]
        return same_without(engine, [(one, trimmed(one, length)) for one, length in ones])


def stretches(batch: Batch, lengths: list[int]) -> Iterator[Batch]:
    """Samples of one length in a row, without what is padding for all of them."""
    start = 0
    for length, same in groupby(lengths):
        end = start + len(list(same))
        yield trimmed(batch.take(slice(start, end)), length)
        start = end
