"""Matrix products in float32 on the CPU: oneDNN's where PyTorch has them, else PyTorch's own.

PyTorch gives them to MKL, which reaches half of oneDNN's rate on processors that Intel did not make
(AMD EPYC of 2024, one core: 95 against 215 GFLOP/s) and has no switch for it. The arithmetic is the
same. The operator is PyTorch's own but private, so that it is tried once before it is relied on.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Multiplications below which the call itself costs more than is gained.
_WORTH = 1 << 20


@functools.cache
def _onednn() -> Any:
    """`(x, weight, bias) -> x weightᵀ + bias` by oneDNN, or None where there is none."""
    try:
        operator = torch.ops.mkldnn._linear_pointwise

        def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            result: Tensor = operator(x, weight, bias, "none", [], "")
            return result

        x, weight, bias = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(3, 4).mT, None
        same = torch.equal(product(x, weight, bias), x @ weight.mT)
    except (AttributeError, RuntimeError, TypeError):
        return None
    return product if same else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` of `x [..., I]`, `weight [O, I]` and `bias [O]`, without a graph."""
    large = x.numel() * len(weight) >= _WORTH
    plain = x.dtype == torch.float32 == weight.dtype and x.device.type == "cpu"
    if large and plain and torch.backends.mkldnn.enabled and (product := _onednn()) is not None:
        result: Tensor = product(x, weight, bias)
        return result
    return F.linear(x, weight, bias)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` of matrices, without a graph."""
    return linear(a, b.mT)
