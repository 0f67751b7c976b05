"""Matrix products in float32: on a GPU's matrix units; on the CPU oneDNN's, else PyTorch's own.

On the CPU PyTorch gives them to MKL, which leaves AVX-512 to processors that Intel made and has no
switch for it: on others it reaches half of oneDNN's rate (AMD EPYC of 2024, one core: 95 against
215 GFLOP/s). On Intel's it is ahead, of small products by a half; and where there is no AVX-512 at
all (AMD EPYC of 2021), by a seventh, of transposed factors by a third and more. The arithmetic is
the same. oneDNN's operator is private, so that it proves itself before it is relied on.
"""

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm_kernels import exact_products, operators

# Multiplications below which the call itself costs more than is gained.
_WORTH = 1 << 21
# And below which to split numbers on a GPU costs more: it takes two launches.
_WORTH_SPLITTING = 1 << 26


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` of `x [..., I]`, `weight [O, I]` and `bias [O]`, without a graph."""
    work = x.numel() * len(weight)
    if work >= _WORTH_SPLITTING and exact_products.convolves(x, weight):
        return exact_products.linear(x, weight, bias)
    large = work >= _WORTH
    plain = x.dtype == torch.float32 == weight.dtype and x.device.type == "cpu"
    if large and plain and prefers_onednn() and operators.has_onednn_linear():
        return operators.onednn_linear(x, weight, bias)
    return F.linear(x, weight, bias)


def add_linear(added: Tensor, x: Tensor, weight: Tensor, out: Tensor) -> Tensor:
    """`added + x weightᵀ`, written to `out`, which may be `added`; without a graph.

    Args:
        added: `[R, O]`, or what is broadcast to that.
        x: `[R, I]`, multiplied in the dtype of the weight.
        weight: `[O, I]`.
        out: `[R, O]`.
    """
    return adding(added, x, weight, out)(added, x, out)


Adding = Callable[[Tensor, Tensor, Tensor], Tensor]


def adding(added: Tensor, x: Tensor, weight: Tensor, out: Tensor) -> Adding:
    """`add_linear` by this weight, `(added, x, out)`, for tensors like these.

    How is chosen here, once: for a loop of many small products that takes as long as they do.
    """
    work, on_cpu = x.shape[0] * weight.numel(), x.device.type == "cpu"
    alike = x.dtype == weight.dtype == added.dtype == out.dtype
    by_onednn = on_cpu and prefers_onednn()
    if alike and work < _WORTH_SPLITTING and (work < _WORTH or not by_onednn):
        back = weight.mT
        return lambda added, x, out: torch.addmm(added, x, back, out=out)
    if alike and by_onednn and x.dtype == torch.float32 and operators.has_onednn_linear():
        product = operators.onednn_linear
        return lambda added, x, out: torch.add(added, product(x, weight, None), out=out)
    return lambda added, x, out: torch.add(added, linear(x.to(weight.dtype), weight), out=out)


def linear_pulled(g: Tensor, weight: Tensor, parts: exact_products.Kept | None) -> Tensor:
    """The pull-back of `linear`, `g weight`; with `parts` where exact products may take it."""
    if parts is not None and g.numel() * weight.shape[1] >= _WORTH_SPLITTING:
        return exact_products.linear_pulled(g, weight, parts)
    return linear(g, weight.mT)


def prefers_onednn() -> bool:
    """Whether PyTorch has oneDNN and may use it, and MKL is behind it here."""
    return bool(torch.backends.mkldnn.enabled) and _has_onednn() and not has_fast_mkl()


@functools.cache
def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())


@functools.cache
def has_fast_mkl() -> bool:
    """Whether MKL is as fast as oneDNN, as on Intel's processors and on those without AVX-512.

    It takes transposed factors as they are.
    """
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = "Intel" in str(known.get("cpu_name")) or known.get("avx512_f") is False
    return fast and bool(torch.backends.mkl.is_available())


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` of matrices, without a graph."""
    return a @ b if a.dtype != torch.float32 or has_fast_mkl() else linear(a, b.mT)
