"""Complex conjugates of real and imaginary parts: vmap cannot look into lazy ones.

PyTorch marks a tensor as conjugated, and its gradient likewise; of that, the imaginary part is a
view with a mark of its own, for which vmap has no rule. Each function takes the arguments of the
operation it stands for and gives the same values, or None where it is to be left to PyTorch.
"""

from collections.abc import Callable
from typing import Any

import torch
from fastgradnorm_kernels.functorch import is_transforming
from torch import Tensor

from fastgradnorm._operations.operation import Operation


def conj(input: Tensor) -> Tensor | None:
    """`torch.conj` and `torch.conj_physical`."""
    if not input.is_complex() or not is_transforming():
        return None
    return torch.complex(input.real, -input.imag)


def _in_place(input: Tensor) -> Tensor | None:
    """`Tensor.conj_physical_`."""
    found = conj(input.clone())  # its parts are views, which are not to change
    return None if found is None else input.copy_(found)


def _adjoint(input: Tensor, *rest: Any) -> Tensor | None:
    """`Tensor.mH` and `torch.adjoint`."""
    found = conj(input) if input.dim() > 1 else None
    return None if found is None else found.transpose(-2, -1)


def _hermitian(input: Tensor, *rest: Any) -> Tensor | None:
    """`Tensor.H` of a matrix."""
    return _adjoint(input) if input.dim() == 2 else None


def _vecdot(x: Tensor, y: Tensor, *, dim: int = -1, out: Tensor | None = None) -> Tensor | None:
    """`torch.linalg.vecdot`."""
    left = conj(x) if out is None else None
    return None if left is None else (left * y).sum(dim)


def _vdot(input: Tensor, other: Tensor) -> Tensor | None:
    """`torch.vdot`."""
    left = conj(input)
    return None if left is None else (left * other).sum()


OPERATIONS: dict[Callable[..., Any], Operation] = {
    function: Operation(opened=form)
    for form, functions in (
        (conj, (torch.conj, Tensor.conj, torch.conj_physical, Tensor.conj_physical)),
        (_in_place, (Tensor.conj_physical_, torch.conj_physical_)),
        (_adjoint, (torch.adjoint, Tensor.adjoint, Tensor.mH.__get__)),  # type: ignore[attr-defined]
        (_hermitian, (Tensor.H.__get__,)),  # type: ignore[attr-defined]
        (_vecdot, (torch.linalg.vecdot,)),
        (_vdot, (torch.vdot, Tensor.vdot)),
    )
    for function in functions
}
