"""Sums, means and counts by groups, of which vmap has no rule, by operations that it has rules for.

Each function takes the arguments of the operation it stands for and gives the same values.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from fastgradnorm_kernels.functorch import is_batched_anywhere
from torch import Tensor

from fastgradnorm._operations.operation import Operation

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_REDUCED = {"sum": "sum", "mean": "mean", "max": "amax", "min": "amin", "prod": "prod"}
_EMPTY = {"sum": 0.0, "mean": float("nan"), "max": -float("inf"), "min": float("inf"), "prod": 1.0}


def index_reduce(
    input: Tensor,
    dim: int,
    index: Tensor,
    source: Tensor,
    reduce: str,
    *,
    include_self: bool = True,
) -> Tensor:
    """`torch.index_reduce`: as of neighbours in a graph."""
    if input.dim() == 0 or index.dim() != 1:
        return torch.index_reduce(input, dim, index, source, reduce, include_self=include_self)
    shape = [1] * source.dim()
    shape[dim] = len(index)
    places = index.long().view(shape).expand(source.shape)
    return input.scatter_reduce(dim, places, source, reduce, include_self=include_self)


def index_reduce_(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.index_reduce_`: of a copy, what the derivative needs of the input being gone else."""
    return input.copy_(index_reduce(input.clone(), *args, **kwargs))


def segment_reduce(
    data: Tensor,
    reduce: str,
    *,
    lengths: Tensor | None = None,
    indices: Tensor | None = None,
    offsets: Tensor | None = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: float | None = None,
) -> Tensor | None:
    """`torch.segment_reduce` without a value to begin with; else None."""
    bounds = lengths if lengths is not None else offsets
    if bounds is None or bounds.dim() != axis + 1 or axis >= data.dim():
        return None
    if indices is not None or initial is not None or reduce not in _REDUCED:
        return None
    if not any(map(is_batched_anywhere, (data, bounds))) or not data.is_floating_point():
        return None
    ends = bounds.cumsum(-1) if lengths is not None else bounds[..., 1:]
    starts = ends - bounds if lengths is not None else bounds[..., :-1]
    row = torch.arange(data.shape[axis], device=data.device)
    if lengths is not None and not unsafe:
        fit = torch.stack([(ends[..., -1] == len(row)).all(), (bounds >= 0).all()]).all()
        if not bool(fit):
            return None  # which PyTorch tells
    count = ends.shape[-1]
    # Of rows in no segment, the place behind the last.
    inside = (row[:, None] >= starts[..., None, :]) & (row[:, None] < ends[..., None, :])
    place = torch.where(inside.any(-1), inside.long().argmax(-1), count)
    tail = data.shape[axis + 1 :]
    place = place.reshape(*place.shape, *[1] * len(tail)).expand(*place.shape, *tail)
    empty = torch.full_like(data.select(axis, 0).unsqueeze(axis), _EMPTY[reduce])
    blank = empty.expand(*data.shape[:axis], count + 1, *tail)
    found = blank.scatter_reduce(axis, place, data, _REDUCED[reduce], include_self=False)
    return found.narrow(axis, 0, count)


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor | None:
    """`torch.bincount`; None of what PyTorch refuses. How many there are is read as a branch is."""
    if input.dim() != 1 or input.dtype not in _WHOLE or len(input) == 0:
        return None
    batched = is_batched_anywhere(input) or (weights is not None and is_batched_anywhere(weights))
    if not batched or bool((input < 0).any()):
        return None
    few = bool((input < minlength).all())
    size = minlength if few else int(input.max()) + 1
    dtype = torch.int64
    if weights is not None:
        dtype = torch.float32 if weights.dtype == torch.float32 else torch.float64
    each = torch.ones_like(input) if weights is None else weights.detach()
    zeros = torch.zeros(size, dtype=dtype, device=input.device)
    return zeros.scatter_add(0, input.long(), each.to(dtype))


def repeat_interleave(
    input: Tensor,
    repeats: Any = None,
    dim: int | None = None,
    *,
    output_size: int | None = None,
) -> Tensor | None:
    """`torch.repeat_interleave` by numbers that differ between samples, as of durations; else None.

    How many there are in all is read as a branch is.
    """
    times = input if repeats is None else repeats
    if not isinstance(times, Tensor) or times.dim() != 1 or not is_batched_anywhere(times):
        return None
    if repeats is not None and len(times) != (input.numel() if dim is None else input.shape[dim]):
        return None  # one number for all
    ends = times.cumsum(0)
    size = int(times.sum()) if output_size is None else output_size
    place = torch.arange(size, device=times.device)
    index = (place[:, None] >= ends).sum(1)
    if repeats is None:
        return index
    return (input.flatten() if dim is None else input).index_select(dim or 0, index)


def histc(
    input: Tensor, bins: int = 100, min: float = 0, max: float = 0, *, out: Tensor | None = None
) -> Tensor | None:
    """`torch.histc` between given bounds; else None."""
    if out is not None or not min < max or not is_batched_anywhere(input):
        return None
    values = input.detach().flatten()
    place = ((values - min) * bins / (max - min)).long().clamp(0, bins - 1)
    counted = ((values >= min) & (values <= max)).to(input.dtype)
    zeros = torch.zeros(bins, dtype=input.dtype, device=input.device)
    return zeros.scatter_add(0, place, counted)


def vander(falls: bool, x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """`torch.linalg.vander`, or `torch.vander`, which begins with the highest power."""
    count = x.shape[-1] if N is None else N
    powers = [torch.ones_like(x)]
    for _ in range(1, count):
        powers.append(powers[-1] * x)
    if falls and not increasing:
        powers.reverse()
    found = torch.stack(powers, -1)
    return found if count else found[..., :0]


def _forms() -> dict[Callable[..., Any], Operation]:
    opened: dict[Callable[..., Any], Callable[..., Any]] = {torch.segment_reduce: segment_reduce}
    for owner in (torch, Tensor):
        opened |= {owner.bincount: bincount, owner.histc: histc}
        opened[owner.repeat_interleave] = repeat_interleave
    formed: dict[Callable[..., Any], Callable[..., Any]] = {
        torch.index_reduce: index_reduce,
        Tensor.index_reduce: index_reduce,
        Tensor.index_reduce_: index_reduce_,
        torch.linalg.vander: partial(vander, False),
        torch.vander: partial(vander, True),
    }
    found = {function: Operation(opened=form) for function, form in opened.items()}
    return found | {function: Operation(form=form) for function, form in formed.items()}


OPERATIONS: dict[Callable[..., Any], Operation] = _forms()
