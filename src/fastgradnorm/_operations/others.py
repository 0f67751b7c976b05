"""Operations that hide their parameters or have no vmap rule, written with others that do not.

Each takes the arguments of the operation it stands for and gives the same values.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from fastgradnorm_kernels import switches
from fastgradnorm_kernels.deferred import is_any
from fastgradnorm_kernels.functorch import in_memory
from fastgradnorm_kernels.levels import outside
from torch import Tensor
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from fastgradnorm._operations.operation import Operation


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """`switches.weight_norm`, whose fused backward has no vmap rule."""
    others = [d for d in range(v.dim()) if d != dim]
    norm: Tensor = torch.linalg.vector_norm(v, dim=others, keepdim=True)
    return v * (g / norm)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """`F.prelu`, whose gradients under vmap torch 2.13 gets wrong for batches."""
    shape = (1, -1) + (1,) * (input.dim() - 2) if weight.numel() > 1 else (1,)
    return torch.where(input > 0, input, weight.reshape(shape) * input)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    """`torch.cdist`, whose gradients under vmap torch 2.13 gets wrong for batches.

    A norm over coordinates that are not last in memory, as those of a transposed cloud of points,
    takes fifteen times as long: the differences would lie as what they are of.
    """
    difference = x1.contiguous().unsqueeze(-2) - x2.contiguous().unsqueeze(-3)
    distance: Tensor = torch.linalg.vector_norm(difference, ord=p, dim=-1)
    return distance


def set_masked(tensor: Tensor, index: Any, value: Any) -> Tensor | None:
    """`tensor[mask] = value` for one value, or one for each trailing dimension; else None."""
    if not isinstance(index, Tensor) or index.dtype != torch.bool:
        return None
    trailing = tensor.dim() - index.dim()
    if isinstance(value, Tensor) and value.dim() > trailing:
        return None
    mask = index.reshape(index.shape + (1,) * trailing)
    if not isinstance(value, Tensor):
        return tensor.masked_fill_(mask, value)
    return tensor.copy_(torch.where(mask, value.to(tensor.dtype), tensor))


def scatter_(tensor: Tensor, *args: Any, **named: Any) -> Tensor:
    """`Tensor.scatter_`, of which only the form that is not in place has a vmap rule."""
    return tensor.copy_(tensor.scatter(*args, **named))


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor | None:
    """`F.one_hot` of a known number of classes, which reads its input to check it; else None.

    Raises:
        RuntimeError: If an index is of no class. On a GPU nobody looks, as PyTorch does not.
    """
    if num_classes <= 0:
        return None
    whole = in_memory(tensor)
    with outside():
        beyond = (whole < 0) | (whole >= num_classes)
        if whole.device.type == "cpu" and is_any(beyond):
            raise RuntimeError(f"an index is out of range for `one_hot` of {num_classes} classes")
    return (tensor.unsqueeze(-1) == torch.arange(num_classes, device=tensor.device)).long()


def hook_if_any(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`Tensor.register_hook`; of what has no gradient, as in passes without a graph, nothing."""
    if tensor.requires_grad:
        return tensor.register_hook(*args, **kwargs)
    return RemovableHandle(OrderedDict())


def kept_if_any(tensor: Tensor) -> None:
    """`Tensor.retain_grad`, likewise."""
    if tensor.requires_grad:
        tensor.retain_grad()


def retain_grad(tensor: Tensor) -> None:
    """`Tensor.retain_grad`: nobody reads that gradient, and transforms refuse to keep it."""


# What is asked of gradients to come, in plain passes.
ASKED: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.Tensor.register_hook: hook_if_any,
    torch.Tensor.retain_grad: kept_if_any,
}


OPERATIONS: dict[Callable[..., Any], Operation] = {
    switches.weight_norm: Operation(opened=weight_norm),
    torch.prelu: Operation(opened=prelu),
    torch.cdist: Operation(opened=cdist),
    torch.Tensor.scatter_: Operation(opened=scatter_),
    torch.Tensor.register_hook: Operation(form=hook_if_any),
    torch.Tensor.retain_grad: Operation(form=retain_grad),
    F.one_hot: Operation(opened=one_hot),
}
