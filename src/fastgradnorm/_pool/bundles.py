"""Small batches of a loader that come as one, so that what a batch costs is paid once for many."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastgradnorm._process import tensors_ready

# Of this many rows, or bytes of them, what a batch costs is little beside what they do.
ROWS, BYTES = 512, 1 << 20
_SECONDS = 0.02  # of reading, after which what is there is given on


def bundled(raws: Iterator[Any]) -> Iterator[tuple[Any, int]]:
    """The items of a loader, of which several may be one, and how many of them each is.

    Only what is equal to the last item that came by itself in everything but the numbers is put
    together with others: a tensor, or a list or tuple of tensors, each of the same size, dtype and
    device. Another number of samples, as in the last batch, comes by itself.

    Args:
        raws: What the loader yields, which may use the memory of one for the next.
    """
    alike: tuple[Any, ...] | None = None
    left: list[Any] = []
    while left or (left := _one(raws)):
        kind = _kind(left[0])
        if kind is None or alike is None or kind != alike:
            alike = kind
            yield left.pop(), 1
            continue
        if (most := _most(left[0])) < 2:
            yield left.pop(), 1
            continue
        parts, end = [_copies(left.pop())], time.perf_counter() + _SECONDS
        while len(parts) < most and time.perf_counter() < end and (left := _one(raws)):
            if _kind(left[0]) != alike:
                break
            parts.append(_copies(left.pop()))
        joined, count = _joined(alike[0], parts), len(parts)
        del parts
        yield joined, count
        del joined  # before the next one is there


def one_by_one(raws: Iterator[Any]) -> Iterator[tuple[Any, int]]:
    """The items of a loader, each by itself."""
    for raw in raws:
        yield raw, 1
        del raw


def _one(raws: Iterator[Any]) -> list[Any]:
    """The next item, or none."""
    for raw in raws:
        return [raw]
    return []


def _kind(raw: Any) -> tuple[Any, ...] | None:
    """Equal for items that may be put end to end; None for one that must not be."""
    tensors = (raw,) if type(raw) is Tensor else raw
    if type(tensors) not in (tuple, list) or not tensors:
        return None
    found: list[Any] = [type(raw)]
    for tensor in tensors:
        if type(tensor) is not Tensor or tensor.layout != torch.strided or not tensor.dim():
            return None
        if tensor.is_nested:  # it has no shape
            return None
        if tensor.is_quantized or tensor.requires_grad or tensor.is_pinned():
            return None
        found += tensor.shape, tensor.dtype, tensor.device
    rows = tensors[0].shape[0]
    return tuple(found) if all(each.shape[0] == rows for each in tensors) else None


def _most(raw: Any) -> int:
    """How many batches like this one may be one."""
    tensors = (raw,) if type(raw) is Tensor else raw
    rows, held = len(tensors[0]), sum(tensor.nbytes for tensor in tensors)
    return min(ROWS // max(1, rows), BYTES // max(1, held))


def _copies(raw: Any) -> list[Tensor]:
    tensors = (raw,) if type(raw) is Tensor else raw
    with tensors_ready():
        return [tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors]


def _joined(kind: type, parts: list[list[Tensor]]) -> Any:
    with tensors_ready():
        found = [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
    return found[0] if kind is Tensor else kind(found)
