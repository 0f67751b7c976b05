"""Autograd functions that live within one `vjp`, and look through the `vmap` around it.

PyTorch takes a custom function through every transform that is active, in Python. These are applied
at the innermost alone, for a fraction of the time; what they compute they compute on plain tensors.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from fastgradnorm_kernels import functorch
from fastgradnorm_kernels.functorch import SingleLevel, current_level, unwrap, wrap
from fastgradnorm_kernels.levels import is_differentiated
from torch import Tensor

__all__ = ["SingleLevel", "current_level", "is_differentiated", "is_frozen", "unwrap", "wrap"]

# Dtypes in which samples and cotangents are folded by hand on the CPU.
FOLDED = (torch.float32, torch.bfloat16)


def is_frozen(*tensors: Tensor | None) -> bool:
    """Whether tensors are the same for all samples and have no gradient."""
    if not functorch.works():
        return False  # nobody can tell
    return not any(t.requires_grad or functorch.is_wrapped(t) for t in tensors if t is not None)


def plain(tensor: Tensor) -> Tensor:
    """What is inside wrappers of `vjp` that follow no derivative, as of a buffer copied there."""
    if not functorch.works():
        return tensor
    inner = functorch.alive(tensor)
    while functorch.is_wrapped(inner) and functorch.is_differentiable(inner):
        if inner.requires_grad:
            return tensor
        inner = functorch.alive(functorch.inside(inner))
    return inner


def multiplied(tensor: Tensor) -> torch.dtype | None:
    """What autocast multiplies in where the tensor is; None without it."""
    kind = tensor.device.type
    if kind not in ("cpu", "cuda") or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """What autocast makes of a tensor that is multiplied; None where it leaves that."""
    dtype = multiplied(tensor)
    casts = tensor.is_floating_point() and tensor.dtype not in (torch.float64, dtype)
    return dtype if casts else None


def dtypes_as_given(tensor: Tensor) -> AbstractContextManager[Any]:
    """Autocast has had its say where dtypes were chosen: inside, they are left alone."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in that dtype. One that no transform wraps stays so: frozen weights are."""
    if not functorch.works() or functorch.is_wrapped(tensor) or tensor.requires_grad:
        return tensor.to(dtype)
    with functorch.outside():
        return tensor.to(dtype)


def as_multiplied(
    input: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a layer is given, as autocast multiplies it.

    Here, as a pull-back has no autocast, and vmap looks at dtypes before that has acted.
    """
    dtype = multiplied(input)
    if dtype is None or torch.float64 in (input.dtype, weight.dtype):
        return input, weight, bias
    return cast(input, dtype), cast(weight, dtype), None if bias is None else cast(bias, dtype)
