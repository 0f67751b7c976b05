"""PyTorch's transforms from inside: all that is private of them, named here and nowhere else.

`torch.func` hands a function tensors in wrappers, one a level of nesting, and has no public way to
look into them. The light functions and operators of this package do, for a fraction of the time.
Each name below has a note: what it is for, and when it can go.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch._C._functorch as _functorch
from torch import Tensor

# Plain tensors are computed with as if no transform was active, within this context. Can go when
# functions under `vmap` may hand plain tensors to operators in public.
outside = torch._C._DisableFuncTorch

# An `autograd.Function` that one level of nesting sees and no other: what PyTorch makes of a public
# one anew at each call and level. Can go when that costs nothing any more.
_Base: Any = torch.autograd.function._SingleLevelFunction


def current_level() -> int | None:
    """Nesting level of the innermost transform; None outside all of them.

    Can go with light functions, which must know where they are.
    """
    level: int | None = _functorch.maybe_current_level()
    return level


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a transform wraps the tensor. Can go when `torch.func` tells."""
    return bool(_functorch.is_functorch_wrapped_tensor(tensor))


def is_batched(tensor: Tensor) -> bool:
    """Whether the outermost wrapper is one of `vmap`. Can go when `torch.func` tells."""
    return bool(_functorch.is_batchedtensor(tensor))


def is_differentiable(tensor: Tensor) -> bool:
    """Whether the outermost wrapper is one of `vjp` or `grad`. Can go when `torch.func` tells."""
    return bool(_functorch.is_gradtrackingtensor(tensor))


def level_of(tensor: Tensor) -> int:
    """Nesting level of the outermost wrapper. Can go with `current_level`."""
    level: int = _functorch.maybe_get_level(tensor)
    return level


def batch_dim(tensor: Tensor) -> int:
    """Which dimension of what is inside a wrapper of `vmap` is that of the batch.

    Can go when `vmap` has a rule for each operation, or hands the engine's rules the tensor inside.
    """
    dim: int = _functorch.maybe_get_bdim(tensor)
    return dim


def inside(tensor: Tensor) -> Tensor:
    """What the outermost wrapper holds. Can go with `batch_dim`."""
    inner: Tensor = _functorch.get_unwrapped(tensor)
    return inner


def alive(tensor: Tensor) -> Tensor:
    """The tensor without wrappers of transforms that have ended. Can go with `is_wrapped`."""
    living: Tensor = _functorch.unwrap_if_dead(tensor)
    return living


def batched(tensor: Tensor, level: int) -> Tensor:
    """The tensor in a wrapper of the `vmap` of that level, over its first dimension.

    Can go with `batch_dim`.
    """
    outer: Tensor = _functorch._add_batch_dim(tensor, 0, level)
    return outer


def unwrap(tensor: Tensor) -> Tensor:
    """What the innermost `vjp` has wrapped. Can go with `SingleLevel`."""
    inner: Tensor = _functorch._unwrap_for_grad(tensor, _functorch.current_level())
    return inner


def wrap(tensor: Tensor) -> Tensor:
    """For the innermost `vjp`. Can go with `SingleLevel`."""
    outer: Tensor = _functorch._wrap_for_grad(tensor, _functorch.current_level())
    return outer


@contextlib.contextmanager
def _single_level_allowed() -> Iterator[None]:
    """Lets such functions be applied, which PyTorch keeps for itself. Can go with `SingleLevel`."""
    before = _functorch.get_single_level_autograd_function_allowed()
    _functorch.set_single_level_autograd_function_allowed(True)
    try:
        yield
    finally:
        _functorch.set_single_level_autograd_function_allowed(before)


class SingleLevel(_Base):  # type: ignore[misc]
    """Base of functions whose `forward` unwraps its inputs, and wraps its output, at one level."""

    @classmethod
    def within(cls, *inputs: Any) -> Any:
        """`apply` within the innermost transform, which must be a `vjp`."""
        with _single_level_allowed():
            return cls.apply(*inputs)
