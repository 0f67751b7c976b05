"""`tensor[:, index] = values` for an index that differs between samples.

Behind a slice vmap takes the dimensions of the values in another order than PyTorch does without
it: it fails, or writes the wrong ones where sizes agree. So what is indexed is moved to the front.
"""

from typing import Any

import torch
from fastgradnorm_kernels import functorch
from torch import Tensor


def _is_several(part: Any) -> bool:
    return isinstance(part, list) or (isinstance(part, Tensor) and part.dim() > 0)


def is_behind(parts: tuple[Any, ...]) -> bool:
    """Whether an index has tensors that differ between samples, and a dimension before them."""
    several = [_is_several(part) for part in parts]
    differs = any(isinstance(p, Tensor) and functorch.is_batched_anywhere(p) for p in parts)
    if not differs or True not in several:
        return False
    return any(type(part) is not int for part in parts[: several.index(True)])


def write(tensor: Tensor, parts: tuple[Any, ...], value: Any) -> None:
    """`tensor[parts] = value`."""
    if not is_behind(parts):
        tensor[parts] = value
        return
    parts = _without_masks(parts)
    target = tensor[tuple(slice(None) if _is_several(part) else part for part in parts)]
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    indices, dims, dim = list[Any](), list[int](), 0
    for part in parts:
        if _is_several(part):
            indices.append(torch.as_tensor(part, device=tensor.device))
            dims.append(dim)
        dim += tensor.dim() - taken if part is Ellipsis else int(type(part) is not int)
    width = max(index.dim() for index in indices)
    moved = target.movedim(dims, list(range(len(dims))))
    adjacent = dims == list(range(dims[0], dims[0] + len(dims)))
    if isinstance(value, Tensor) and adjacent:  # else they are in front already
        others = list(moved.shape[len(dims) :])
        picked = list(torch.broadcast_shapes(*(index.shape for index in indices)))
        value = value.expand(*others[: dims[0]], *picked, *others[dims[0] :])
        value = value.movedim(list(range(dims[0], dims[0] + width)), list(range(width)))
    moved[tuple(indices)] = value


def _without_masks(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """With the places of masks that are the same for all samples."""
    found: list[Any] = []
    for part in parts:
        mask = isinstance(part, Tensor) and part.dtype == torch.bool and part.dim() > 0
        found.extend(part.nonzero(as_tuple=True) if mask else [part])
    return tuple(found)
