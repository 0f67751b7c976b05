"""Derivatives that a model takes while it runs, by ways that the transforms around it do not see.

`torch.func.grad`, `vjp` and `jvp` are nested in them. Plain autograd is not: within a transform it
fails, or gives what a training run would not have. `torch.func.linearize` traces what it is given,
and keeps wrappers of a running transform as constants, whose values are then anybody's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from fastgradnorm_kernels.functorch import is_transforming
from fastgradnorm_kernels.levels import is_of_another
from fastgradnorm_kernels.switches import make_dual
from torch import Tensor

from fastgradnorm._operations import tensors_in

_PLAIN = frozenset({torch.autograd.grad, torch.autograd.backward, Tensor.backward})
# Their names, and of the call by which `linearize` begins a derivative.
NAMES = frozenset({"grad", "backward", make_dual.__name__})


class OwnDerivativeError(RuntimeError):
    """The model takes a derivative in a way that cannot be nested in others."""


def takes_by_autograd(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], level: int | None
) -> bool:
    """Whether a call takes derivatives by plain autograd, which those of `torch.func` call too.

    Args:
        func: What is called.
        args: Its arguments: those of `torch.func` are of its own levels, or of some that have
            ended.
        kwargs: Likewise.
        level: Of the transform that the model runs in; None if in none.

    Raises:
        OwnDerivativeError: If it is within a transform.
    """
    if func in _PLAIN and not any(is_of_another(t, level) for t in tensors_in(args, kwargs)):
        if not is_transforming():
            return True
        raise OwnDerivativeError(
            "the model takes derivatives by plain autograd while it runs. `torch.func.grad` is "
            "fast there."
        )
    if func is make_dual and _is_tracing() and is_transforming():
        raise OwnDerivativeError(
            "the model uses `torch.func.linearize` while it runs. `torch.func.jvp` is fast there."
        )
    return False


def _is_tracing() -> bool:
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is not None
