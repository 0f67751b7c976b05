"""Where a tensor keeps its numbers, whatever its layout."""

from typing import Any

import torch
from torch import Tensor

_BY_ROWS = (torch.sparse_csr, torch.sparse_bsr)
_BY_COLUMNS = (torch.sparse_csc, torch.sparse_bsc)


def parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The strided tensors that make a tensor: itself, or indices and values of a sparse one."""
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in _BY_ROWS:
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in _BY_COLUMNS:
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,) if tensor.layout == torch.strided else (tensor.to_dense(),)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two plain tensors are equal, NaN like any other value."""
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    if a.layout != torch.strided:
        return all(map(same, parts(a), parts(b)))
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())


def strided(rows: Any) -> Any:
    """A tensor that holds samples: no transform tells rows of sparse ones apart."""
    return rows if rows.layout == torch.strided else rows.to_dense()
