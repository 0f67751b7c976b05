"""Channels of images regrouped and taken apart, with the channels last in memory as they were.

Shuffled channels, chunks of them and average pools come back from PyTorch's own pull-backs with the
positions last: what they meet there has the channels last, and operations on two layouts at once
take several times as long. Seen with the positions before the channels nothing changes its layout.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from fastgradnorm_kernels.geometry import Geometry, sizes
from fastgradnorm_kernels.levels import outside
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.folded_convolutions import conv
from fastgradnorm._operations.operation import Operation
from fastgradnorm._operations.single_level import FOLDED, multiplied
from fastgradnorm._operations.unbatched import laid_out


def reshaped(
    function: Callable[..., Tensor],
    input: Tensor,
    *args: Any,
    channels_last: bool,
    **named: Any,
) -> Tensor:
    """`function`, `Tensor.view` or a name for `torch.reshape`."""
    shape = None if named or not channels_last else _shape(input, args)
    if shape is None or not _is_last(input) or not _keeps_positions(input, shape):
        return function(input, *args, **named)
    rows = input.movedim((-2, -1), (1, 2))
    return function(rows, (shape[0], *shape[-2:], *shape[1:-2])).movedim((1, 2), (-2, -1))


def contiguous(input: Tensor, *args: Any, channels_last: bool, **named: Any) -> Any:
    """`Tensor.contiguous`, where groups of channels are shuffled: so that they can be one again."""
    if args or named or not channels_last or input.dim() < 5 or not _is_last(input):
        return laid_out(Tensor.contiguous, input, *args, **named)
    return input.movedim((-2, -1), (1, 2)).contiguous().movedim((1, 2), (-2, -1))


def _shape(input: Tensor, args: tuple[Any, ...]) -> tuple[int, ...] | None:
    """What is asked for, with all sizes known; None where it is something else."""
    sizes = args[0] if len(args) == 1 and isinstance(args[0], tuple | list) else args
    if len(sizes) < 4 or not all(type(size) is int for size in sizes):
        return None
    known, count = math.prod(size for size in sizes if size != -1), input.numel()
    shape = tuple(count // max(1, known) if size == -1 else size for size in sizes)
    return shape if math.prod(shape) == count > 0 else None


def _keeps_positions(input: Tensor, shape: tuple[int, ...]) -> bool:
    same = shape[0] == input.shape[0] and shape[-2:] == input.shape[-2:]
    return same and len(shape) != input.dim()


def _is_last(tensor: Tensor) -> bool:
    """Whether channels, or the groups they are in, lie within positions in memory."""
    if tensor.dim() < 4 or tensor.device.type != "cpu":
        return False
    _, *channels, height, width = tensor.shape
    _, *steps, _, step = tensor.stride()
    count = math.prod(channels)
    inside = all(s < step for s, size in zip(steps, channels, strict=True) if size > 1)
    return count > 1 and height * width > 1 and step >= count and inside


def parts(
    function: Callable[..., Any], input: Tensor, *args: Any, channels_last: bool, **named: Any
) -> Any:
    """`function`, one that takes a tensor apart along a dimension."""
    dim = args[1] if len(args) > 1 else named.get("dim", 0)
    of_channels = channels_last and input.dim() == 4 and dim in (1, -3)
    if not of_channels or len(args) > 2 or not _is_last(input):
        return function(input, *args, **named)
    named = {**named, "dim": -1}
    return tuple(p.movedim(-1, 1) for p in function(input.movedim(1, -1), *args[:1], **named))


def averages(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    channels_last: bool,
) -> Tensor:
    """`F.avg_pool2d`, as a convolution of each channel by equal weights."""
    options = kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    steps = kernel_size if stride is None else stride
    windows = Geometry(sizes(kernel_size, 2), sizes(steps, 2), sizes(padding, 2), (1, 1))
    plain = not ceil_mode and divisor_override is None and input.dtype in FOLDED
    plain = plain and (count_include_pad or not any(windows.padding)) and multiplied(input) is None
    number = math.prod(windows.kernel_size)
    # A ninth that bfloat16 rounds is off in the same way at each pool.
    plain = plain and (input.dtype == torch.float32 or number & (number - 1) == 0)
    if not (channels_last and plain and input.dim() == 4 and _is_last(input)):
        return F.avg_pool2d(input, *options)
    if not _are_valid(windows, input.shape[2:]):
        return F.avg_pool2d(input, *options)  # which says what is wrong
    count = input.shape[1]
    with outside():
        weight = torch.full(
            (count, 1, *windows.kernel_size), 1 / number, dtype=input.dtype, device="cpu"
        )
    given = None, windows.stride, windows.padding, 1, count
    return conv(F.conv2d, 2, input, weight, *given, channels_last=True)


def _are_valid(windows: Geometry, space: Sequence[int]) -> bool:
    each = [*zip(windows.kernel_size, windows.stride, windows.padding, strict=True)]
    usual = len(each) == 2 and all(k >= max(1, 2 * p) and s > 0 and p >= 0 for k, s, p in each)
    return usual and min(windows.out(space)) > 0


_RESHAPED: list[Callable[..., Any]] = [torch.reshape, Tensor.reshape, Tensor.view]
_APART: list[Callable[..., Any]] = [
    *(torch.chunk, torch.split, torch.tensor_split),
    *(Tensor.chunk, Tensor.split, Tensor.tensor_split),
]

OPERATIONS: dict[Callable[..., Any], Operation] = {
    **{f: Operation(form=partial(reshaped, f), has_layout=True, several=True) for f in _RESHAPED},
    **{f: Operation(form=partial(parts, f), has_layout=True, several=True) for f in _APART},
    Tensor.contiguous: Operation(form=contiguous, has_layout=True),
    F.avg_pool2d: Operation(form=averages, has_layout=True, several=True),
}
