"""Packed sequences under vmap: those of one sample are as long as each other, mostly one alone.

How long a sequence is, which differs between samples, gives a shape: it is read as a branch is.
What is packed is then the steps of all sequences, one after another, and needs no padding.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from fastgradnorm_kernels.functorch import is_batched_anywhere
from fastgradnorm_kernels.switches import pack_padded, pad_packed, pad_several
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.operation import Operation


def pack(input: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor] | None:
    """What `pack_padded_sequence` calls: steps `[sum of lengths, ...]` and how many of each."""
    if not (is_batched_anywhere(input) or is_batched_anywhere(lengths)):
        return None
    sizes = [int(length) for length in lengths.unbind()]
    steps = input.transpose(0, 1) if batch_first else input
    falling = all(a >= b for a, b in pairwise(sizes))
    if not sizes or not falling or not 0 < sizes[-1] <= sizes[0] <= len(steps):
        return None  # which PyTorch tells
    counts = [sum(size > t for size in sizes) for t in range(sizes[0])]
    if sizes[0] == sizes[-1]:
        data = steps[: sizes[0]].flatten(0, 1)
    else:
        data = torch.cat([steps[t, :count] for t, count in enumerate(counts)])
    return data, torch.tensor(counts, device="cpu")


def steps_of(data: Tensor, batch_sizes: Tensor) -> Tensor | None:
    """Packed steps as `[T, B, ...]`; None where sequences differ in length."""
    sizes = batch_sizes.tolist()
    if is_batched_anywhere(batch_sizes) or len({*sizes}) != 1:
        return None
    steps: Tensor = data.unflatten(0, (len(sizes), sizes[0]))
    return steps


def pad(
    data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
) -> tuple[Tensor, Tensor] | None:
    """What `pad_packed_sequence` calls: sequences with their padding, and their lengths."""
    steps = steps_of(data, batch_sizes) if is_batched_anywhere(data) else None
    if steps is None:
        return None
    length, count = steps.shape[:2]
    if total_length > length:
        more = total_length - length
        padding = torch.full_like(steps[:1], padding_value).expand(more, *steps.shape[1:])
        steps = torch.cat([steps, padding])
    lengths = torch.full((count,), length, device="cpu")
    return (steps.transpose(0, 1) if batch_first else steps), lengths


def unpacked(args: Sequence[Any]) -> list[Any] | None:
    """The arguments of a recurrent layer of packed sequences as those of padded ones, else None."""
    data, batch_sizes, *others = args
    steps = steps_of(data, batch_sizes)
    return None if steps is None else [steps, *others, False]


def pad_sequence(
    sequences: Sequence[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor | None:
    """What `pad_sequence` calls."""
    if not any(map(is_batched_anywhere, sequences)):
        return None
    longest = max(len(each) for each in sequences)
    rows = []
    for each in sequences:
        more = longest - len(each)
        gaps = (more, 0) if padding_side == "left" else (0, more)
        rows.append(F.pad(each, (*[0, 0] * (each.dim() - 1), *gaps), value=padding_value))
    return torch.stack(rows, 0 if batch_first else 1)


OPERATIONS: dict[Callable[..., Any], Operation] = {
    pack_padded: Operation(opened=pack),
    pad_packed: Operation(opened=pad),
    pad_several: Operation(opened=pad_sequence),
}
