"""Autograd functions that live within one `vjp`, and look through the `vmap` around it.

PyTorch takes a custom function through every transform that is active, in Python. These are applied
at the innermost alone, for a fraction of the time; what they compute they compute on plain tensors.
"""

from typing import Any

import torch
import torch._C._functorch as functorch
from fastgradnorm_kernels.levels import bare
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function

# Samples, and the derivative: transforms nested deeper are the model's.
_OWN_LEVELS = 2


def current_level() -> int | None:
    """Nesting level of the innermost transform; None outside all of them."""
    level: int | None = functorch.maybe_current_level()
    return level


def unwrap(tensor: Tensor) -> Tensor:
    """What the innermost `vjp` has wrapped."""
    inner: Tensor = functorch._unwrap_for_grad(tensor, functorch.current_level())
    return inner


def wrap(tensor: Tensor) -> Tensor:
    """For the innermost `vjp`."""
    outer: Tensor = functorch._wrap_for_grad(tensor, functorch.current_level())
    return outer


class SingleLevel(torch.autograd.Function):
    """Base of functions whose `forward` unwraps its inputs, and wraps its output, at one level."""

    @classmethod
    def within(cls, *inputs: Any) -> Any:
        """`apply` within the innermost transform, which must be a `vjp`."""
        with enable_single_level_autograd_function():
            return super(torch.autograd.Function, cls).apply(*inputs)  # type: ignore[misc]


def is_differentiated(*tensors: Tensor | None) -> bool | None:
    """Whether a derivative is taken of the tensors, right here and nowhere else.

    None where light functions do not apply: outside of transforms, or inside of the model's own,
    which may take a derivative of what is pulled back here.
    """
    level = current_level()
    if level is None or level > _OWN_LEVELS:
        return None
    found = False
    for tensor in tensors:
        if tensor is None:
            continue
        tensor = functorch.unwrap_if_dead(tensor)
        if functorch.is_gradtrackingtensor(tensor) and functorch.maybe_get_level(tensor) == level:
            found, tensor = True, unwrap(tensor)
        if bare(tensor) is None:
            return None
    return found


def is_frozen(*tensors: Tensor | None) -> bool:
    """Whether tensors are the same for all samples and have no gradient."""
    return not any(
        t.requires_grad or functorch.is_functorch_wrapped_tensor(t)
        for t in tensors
        if t is not None
    )
