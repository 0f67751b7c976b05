"""Products with a sparse matrix that all samples share: one product for all of them.

An adjacency or an incidence matrix is a constant of the model. PyTorch has no batched form of its
products, nor any of compressed layouts under transforms; but columns of a product are apart, so
that the samples' stand side by side.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from fastgradnorm_kernels.functorch import (
    in_memory,
    inside,
    is_batched_anywhere,
    is_transforming,
    is_wrapped,
    works,
)
from fastgradnorm_kernels.levels import outside
from torch import Tensor


class _Shared:
    """A matrix that no transform is to wrap, and its transpose."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def transposed(self) -> "_Shared":
        """As a matrix of coordinates, which can be multiplied by in any case."""
        with outside():
            return _Shared(self.matrix.to_sparse_coo().t())


class _Product(torch.autograd.Function):
    """`shared.matrix @ x` for x `[columns, K]`."""

    @staticmethod
    def forward(x: Tensor, shared: _Shared) -> Tensor:
        return shared.matrix @ x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shared = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return _multiplied(g, ctx.shared.transposed()), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], x: Tensor, shared: _Shared) -> Any:
        """Samples side by side."""
        columns = x.movedim(in_dims[0], 1)  # [columns, N, K]
        found = _multiplied(columns.flatten(1), shared)
        return found.unflatten(1, columns.shape[1:]), 1


def _multiplied(x: Tensor, shared: _Shared) -> Tensor:
    found: Tensor = _Product.apply(x, shared)  # type: ignore[no-untyped-call]
    return found


def _is_shared(tensor: Any) -> bool:
    """Whether it is a sparse matrix that is a constant, under transforms."""
    if not isinstance(tensor, Tensor) or tensor.layout == torch.strided or tensor.dim() != 2:
        return False
    plain = is_transforming() and not is_batched_anywhere(tensor)
    return plain and not _has_gradient(tensor)


def _has_gradient(tensor: Tensor) -> bool:
    """Whether a derivative is taken of it at any level, as of a matrix made of a parameter."""
    if not works():
        return tensor.requires_grad or in_memory(tensor).requires_grad
    while is_wrapped(tensor) and not tensor.requires_grad:
        tensor = inside(tensor)
    return tensor.requires_grad


def product(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`func`, a product of two, where one of them is such a matrix."""
    if len(args) == 2 and not kwargs and all(isinstance(arg, Tensor) for arg in args):
        left, right = args
        if right.layout == torch.strided and right.dim() in (1, 2) and _is_shared(left):
            columns = right if right.dim() == 2 else right[:, None]
            found = _multiplied(columns, _Shared(in_memory(left)))
            return found if right.dim() == 2 else found[:, 0]
        if left.layout == torch.strided and left.dim() == 2 and _is_shared(right):
            return _multiplied(left.mT, _Shared(in_memory(right)).transposed()).mT
    return func(*args, **kwargs)


def dense(
    tensor: Tensor, dtype: torch.dtype | None = None, *, masked_grad: bool | None = None
) -> Tensor:
    """`Tensor.to_dense`; of what is dense already PyTorch 2.15 has none within transforms."""
    if tensor.layout == torch.strided:
        return tensor if dtype is None else tensor.to(dtype)
    if not _is_shared(tensor):
        return tensor.to_dense(dtype, masked_grad=masked_grad)
    with outside():
        return in_memory(tensor).to_dense(dtype, masked_grad=masked_grad)


_FUNCTIONS = (torch.sparse.mm, torch.mm, torch.mv, torch.matmul)
_METHODS = (Tensor.mm, Tensor.mv, Tensor.matmul, Tensor.__matmul__)
FORMS: dict[Callable[..., Any], Callable[..., Any]] = {
    **{function: partial(product, function) for function in (*_FUNCTIONS, *_METHODS)},
    Tensor.to_dense: dense,
}
