"""Equations and determinants, whose pull-backs PyTorch 2.13 gets wrong for batches.

`lu_solve` solves by the factors of the first matrix alone where factors are broadcast over
right-hand sides. The derivatives of `solve`, `det`, `logdet` and `slogdet` call it with the factors
of the forward pass, broadcast over cotangents, unless the grad mode is on. So equations are solved,
and both are pulled back from, by triangular factors here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from fastgradnorm_kernels.functorch import derivative_level, is_transforming
from torch import Tensor

from fastgradnorm._operations.arguments import tensors_in
from fastgradnorm._operations.operation import Operation

# Samples, and the derivative or cotangents: transforms nested deeper are the model's.
_OWN_LEVELS = 2


class _Solve(torch.autograd.Function):
    """`X` of `A X = B`, and factors of `A`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        LU, pivots = torch.linalg.lu_factor(A)
        return lu_solve(LU, pivots, B), LU, pivots

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output)
        ctx.shapes = [tensor.shape for tensor in inputs]

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        X, LU, pivots = ctx.saved_tensors
        of_B = lu_solve(LU, pivots, g, adjoint=True)
        of_A = -of_B @ X.mH
        return of_A.sum_to_size(ctx.shapes[0]), of_B.sum_to_size(ctx.shapes[1])


def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """`torch.linalg.solve`."""
    if B.dim() == 1 or (A.dim() == B.dim() + 1 and A.shape[:-1] == B.shape):
        return solve(A, B.unsqueeze(-1)).squeeze(-1)
    if not left:  # X A = B is Aᵀ Xᵀ = Bᵀ
        return solve(A.mT, B.mT).mT
    X: Tensor = _Solve.apply(A, B)[0]  # type: ignore[no-untyped-call]
    return X


def lu_solve(
    LU: Tensor, pivots: Tensor, B: Tensor, *, left: bool = True, adjoint: bool = False
) -> Tensor:
    """`torch.linalg.lu_solve`."""
    if not left:  # X A = B is A^H X^H = B^H
        return lu_solve(LU, pivots, B.mH, adjoint=not adjoint).mH
    P, L, U = torch.lu_unpack(LU, pivots)
    if adjoint:
        inner = torch.linalg.solve_triangular(U.mH, B, upper=False)
        inner = torch.linalg.solve_triangular(L.mH, inner, upper=True, unitriangular=True)
        return torch.matmul(P, inner)
    inner = torch.linalg.solve_triangular(L, P.mT @ B, upper=False, unitriangular=True)
    X: Tensor = torch.linalg.solve_triangular(U, inner, upper=True)
    return X


def _old_lu_solve(input: Tensor, LU_data: Tensor, LU_pivots: Tensor) -> Tensor:
    """`torch.lu_solve`, and the method."""
    return lu_solve(LU_data, LU_pivots, input)


def _solve_ex(A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False) -> Any:
    """`torch.linalg.solve_ex`."""
    info = torch.linalg.lu_factor_ex(A.detach(), check_errors=check_errors).info
    return _named("linalg_solve_ex", solve(A, B, left=left), info)


def _named(name: str, *parts: Tensor) -> Any:
    """One of PyTorch's named tuples."""
    return getattr(torch.return_types, name)(parts)


def tensorsolve(A: Tensor, B: Tensor, dims: tuple[int, ...] | None = None) -> Tensor:
    """`torch.linalg.tensorsolve`."""
    if dims is not None:
        A = A.movedim(tuple(dims), tuple(range(-len(dims), 0)))
    solution = solve(A.reshape(B.numel(), -1), B.reshape(-1))
    return solution.reshape(A.shape[B.dim() :])


class _Determinant(torch.autograd.Function):
    """`det A`, and factors of `A`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        LU, pivots, _ = torch.linalg.lu_factor_ex(A)
        return _parity(LU, pivots) * _diagonal(LU).prod(-1), LU, pivots

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> Tensor:
        """Of a singular matrix, by one that is regular and hardly another."""
        LU, pivots = ctx.saved_tensors
        diagonal = _diagonal(LU)
        least = diagonal.abs().amax(-1, keepdim=True) * torch.finfo(LU.dtype).eps
        least = torch.where(least == 0, torch.finfo(LU.dtype).eps, least)
        LU = LU + torch.where(diagonal == 0, least, 0).diag_embed()
        det = _parity(LU, pivots) * _diagonal(LU).prod(-1)
        return _inverse_mh(LU, pivots, g * det.conj())


class _LogDeterminant(torch.autograd.Function):
    """Sign and logarithm of the size of `det A`, and factors of `A`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        LU, pivots, _ = torch.linalg.lu_factor_ex(A)
        diagonal = _diagonal(LU)
        sign = _parity(LU, pivots) * diagonal.sgn().prod(-1)
        return sign, diagonal.abs().log().sum(-1), LU, pivots

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(output[0], *output[2:])

    @staticmethod
    def backward(ctx: Any, of_sign: Tensor, of_log: Tensor, *_: Tensor) -> Tensor:
        sign, LU, pivots = ctx.saved_tensors
        if LU.is_complex():  # the sign turns
            return _inverse_mh(LU, pivots, of_log - 1j * (of_sign.conj() * sign).imag)
        return _inverse_mh(LU, pivots, of_log)


def _diagonal(LU: Tensor) -> Tensor:
    return LU.diagonal(0, -2, -1)


def _parity(LU: Tensor, pivots: Tensor) -> Tensor:
    """Of the permutation: 1 or -1."""
    swaps = (pivots != torch.arange(1, pivots.shape[-1] + 1, device=pivots.device)).sum(-1)
    return (1 - 2 * (swaps % 2)).to(LU.dtype)


def _inverse_mh(LU: Tensor, pivots: Tensor, scale: Tensor) -> Tensor:
    """`scale A^-H`."""
    eye = torch.eye(LU.shape[-1], dtype=LU.dtype, device=LU.device)
    return lu_solve(LU, pivots, scale[..., None, None] * eye, adjoint=True)


def det(A: Tensor) -> Tensor:
    """`torch.linalg.det`."""
    found: Tensor = _Determinant.apply(A)[0]  # type: ignore[no-untyped-call]
    return found


def slogdet(A: Tensor) -> Any:
    """`torch.linalg.slogdet`."""
    sign, log, *_ = _LogDeterminant.apply(A)  # type: ignore[no-untyped-call]
    return _named("linalg_slogdet", sign, log)


def logdet(A: Tensor) -> Tensor:
    """`torch.logdet`."""
    sign, log = slogdet(A)
    if A.is_complex():
        total: Tensor = sign.log() + log
        return total
    return torch.where(sign == -1, torch.nan, log)


def _within(
    func: Callable[..., Any], instead: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """`instead` in our own transforms, `func` outside of them."""
    if not is_transforming() or kwargs.get("out") is not None:
        return func(*args, **kwargs)
    if any(derivative_level(t) > _OWN_LEVELS for t in tensors_in(args, kwargs)):
        raise NotImplementedError(f"derivatives of {func.__name__} that the model takes itself")
    kwargs.pop("out", None)
    return instead(*args, **kwargs)


_FORMS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.linalg.solve: solve,
    torch.linalg.solve_ex: _solve_ex,
    torch.linalg.tensorsolve: tensorsolve,
    torch.linalg.lu_solve: lu_solve,
    torch.lu_solve: _old_lu_solve,
    torch.Tensor.lu_solve: _old_lu_solve,
    **dict.fromkeys((torch.linalg.det, torch.det, torch.Tensor.det), det),
    **dict.fromkeys((torch.linalg.slogdet, torch.slogdet, torch.Tensor.slogdet), slogdet),
    **dict.fromkeys((torch.logdet, torch.Tensor.logdet), logdet),
}
for _func, _instead in list(_FORMS.items()):  # as an operator too, by any of its names
    for _name in (_func.__name__, _func.__name__.removeprefix("linalg_")):
        _operator = getattr(torch.ops.aten, _name, None)
        if _operator is not None:
            _FORMS.setdefault(_operator, _instead)
            _FORMS.setdefault(_operator.default, _instead)

OPERATIONS: dict[Callable[..., Any], Operation] = {
    func: Operation(form=partial(_within, func, instead)) for func, instead in _FORMS.items()
}
