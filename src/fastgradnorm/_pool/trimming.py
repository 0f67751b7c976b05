"""Texts without the padding at their ends: as long as they are, to the next of a few lengths.

A loader pads the texts of a batch to its longest, so that unsorted ones are mostly padding. It is
left out where the model's own logits, called with and without it, are the same.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from fastgradnorm._engine import Engine
from fastgradnorm._model import Batch, Given
from fastgradnorm._process import autograd_ready
from fastgradnorm._witness import same_without

_STEP = 32  # lengths are multiples of it
_TRIED = 4  # samples whose logits are compared


def by_length(batch: Batch) -> list[int] | None:
    """How long each sample is, to the next step; None where that cannot be told, or is no use."""
    mask = batch.attention_mask
    if mask is None or batch.mask is not None or batch.labelled is not None or mask.dim() != 2:
        return None
    width = mask.shape[1]
    if not isinstance(batch.run, Given) or any(isinstance(v, Tensor) for v in batch.run.values):
        return None
    if any(width in leaf.shape[2:] for leaf in batch.leaves):
        return None
    lengths = mask.sum(1)
    at_the_end = torch.arange(width, device=mask.device) < lengths[:, None]
    if not bool((at_the_end == mask).all()):
        return None
    found = [min(width, -(-max(1, length) // _STEP) * _STEP) for length in lengths.tolist()]
    return None if min(found) == width else found


def trimmed(batch: Batch, length: int) -> Batch:
    """The first `length` positions of samples that have no more."""
    mask = batch.attention_mask
    assert mask is not None
    width = mask.shape[1]

    def cut(leaf: Tensor) -> Tensor:
        return leaf[:, :length] if leaf.dim() > 1 and leaf.shape[1] == width else leaf

    return replace(batch, leaves=tuple(map(cut, batch.leaves)), attention_mask=mask[:, :length])


def is_harmless(engine: Engine, batch: Batch, lengths: list[int]) -> bool:
    """Whether samples of a batch have the same logits without their padding."""
    assert batch.attention_mask is not None
    width = batch.attention_mask.shape[1]
    places = sorted((i for i, n in enumerate(lengths) if n < width), key=lengths.__getitem__)
    tried = {places[round(i * (len(places) - 1) / (_TRIED - 1))] for i in range(_TRIED)}
    with autograd_ready():
        if len(engine.plan(batch).logits_shape) != 1:
            return False
        ones = [(batch.take(slice(i, i + 1)), lengths[i]) for i in sorted(tried)]
        return same_without(engine, [(one, trimmed(one, length)) for one, length in ones])


def shortest(batch: Batch) -> Batch:
    """A sample of the least length that samples are trimmed to, cut if it is longer."""
    return trimmed(batch.take(slice(0, 1)), _STEP)


def stretches(batch: Batch, lengths: list[int]) -> Iterator[Batch]:
    """Samples of one length in a row, without what is padding for all of them."""
    start = 0
    for length, same in groupby(lengths):
        end = start + len(list(same))
        yield trimmed(batch.take(slice(start, end)), length)
        start = end
