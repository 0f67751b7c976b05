"""Images joined along a dimension, with the channels last in memory where those that come have it.

Under vmap PyTorch sees one dimension more, takes no layout from that, and joins to images that have
the positions last: what follows lays them out anew, forward and back, and operations on two layouts
at once are slow. U-Nets, DenseNets and whatever has branches join so.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastgradnorm._operations.operation import Operation

# Where the dimensions of an image are, once the channels are last.
_PLACES = (0, 3, 1, 2)


def cat(function: Callable[..., Tensor], *args: Any, channels_last: bool, **named: Any) -> Tensor:
    """`function`, one of PyTorch's names for `torch.cat`."""
    if channels_last and len(args) <= 2 and named.keys() <= {"tensors", "dim"}:
        given = dict(zip(("tensors", "dim"), args, strict=False)) | named
        tensors, dim = given.get("tensors", ()), given.get("dim", 0)
        if isinstance(dim, int) and -4 <= dim < 4 and _are_last(tensors):
            rows = [tensor.movedim(1, -1) for tensor in tensors]
            return torch.cat(rows, _PLACES[dim]).movedim(-1, 1)
    return function(*args, **named)


def _are_last(tensors: Any) -> bool:
    """Whether most of the numbers are of images with the channels last."""
    if not isinstance(tensors, Sequence) or not all(isinstance(t, Tensor) for t in tensors):
        return False
    if any(t.dim() != 4 or t.device.type != "cpu" for t in tensors):
        return False
    last = [t for t in tensors if _is_last(t)]
    return 2 * _size(last) > _size(tensors)


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def _is_last(tensor: Tensor) -> bool:
    # A tensor under vmap knows its strides, but not whether that is a layout.
    _, channels, height, width = tensor.shape
    steps = tensor.stride()
    return channels > 1 and height * width > 1 and steps[1] == 1 and steps[3] >= channels


OPERATIONS: dict[Callable[..., Any], Operation] = {
    function: Operation(form=partial(cat, function), has_layout=True)
    for function in (torch.cat, torch.concat, torch.concatenate)
}
