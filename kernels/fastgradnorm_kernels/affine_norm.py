r"""`‖Σ_t g_t ⊙ x̂_t‖²` and `‖Σ_t g_t‖²`, scale and shift of a norm layer, in one read of g.

A program owns BLOCK_D features of one sample and cotangent and sweeps the positions. The cotangents
of one sample and block run side by side, so that `x̂` comes from the L2 cache for all but the
first. Both layouts, features last (layer norm) and positions last (batch and group norm), are read
as they lie.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels._launch import LAUNCH
from fastgradnorm_kernels._validate import check_affine
from fastgradnorm_kernels.reference import AffineNorm
from fastgradnorm_kernels.shapes import Float

# Bytes of g that a program reads at a time, so that each thread has four loads under way, and
# numbers of each row of it, two cache lines or one. Not measured.
_BYTES, _ROW = 8192, 64
# A block that is filled to less than this is made smaller: else others have it compiled already.
_LEAST = 4


@triton.jit(do_not_specialize=["K", "blocks"])
def _affine_sq_norm_kernel(
    x_ptr,  # [N, T, D]
    g_ptr,  # [N, K, T, D]
    partial_ptr,  # [N, K, blocks, 2], float32
    K,
    T,
    D,
    blocks,
    x_stride_n,
    x_stride_t,
    x_stride_d,
    g_stride_n,
    g_stride_k,
    g_stride_t,
    g_stride_d,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    k = tl.cast(tl.program_id(0) % K, tl.int64)
    block = tl.cast(tl.program_id(0) // K % blocks, tl.int64)
    n = tl.cast(tl.program_id(0) // K // blocks, tl.int64)
    d = block * BLOCK_D + tl.arange(0, BLOCK_D)
    x_rows = x_ptr + n * x_stride_n + d[None, :] * x_stride_d
    g_rows = g_ptr + n * g_stride_n + k * g_stride_k + d[None, :] * g_stride_d
    weight = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    bias = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    for start in range(0, T, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T).to(tl.int64)
        mask = (t < T)[:, None] & (d < D)[None, :]
        x = tl.load(x_rows + t[:, None] * x_stride_t, mask=mask, other=0.0).to(tl.float32)
        g = tl.load(g_rows + t[:, None] * g_stride_t, mask=mask, other=0.0).to(tl.float32)
        weight += g * x
        bias += g
    weight, bias = tl.sum(weight, 0), tl.sum(bias, 0)  # [BLOCK_D]
    slot = ((n * K + k) * blocks + block) * 2
    tl.store(partial_ptr + slot, tl.sum(weight * weight))
    tl.store(partial_ptr + slot + 1, tl.sum(bias * bias))


def blocks(positions: int, features: int, position_stride: int, itemsize: int) -> dict[str, Any]:
    """Block sizes and warps: wide along whichever dimension is contiguous, no wider than pays."""
    numbers = _BYTES // itemsize
    if position_stride == 1 and positions > 1:
        block_t = _filled(_ROW, positions)
        block_d = _filled(numbers // block_t, features)
    else:
        block_d = _filled(_ROW, features)
        block_t = _filled(numbers // block_d, positions)
    return {"BLOCK_T": block_t, "BLOCK_D": block_d, "num_warps": 4}


def _filled(most: int, size: int) -> int:
    """The size of a block of `most`, or less where little would be in it."""
    fewer: int = triton.next_power_of_2(max(1, size))
    return most if fewer * _LEAST >= most else fewer


def affine_sq_norm(
    normalized: Float[Tensor, "N T D"], grad_outputs: Float[Tensor, "N K T D"]
) -> AffineNorm:
    """Triton form of :func:`fastgradnorm_kernels.reference.affine_sq_norm`."""
    return AffineNorm(*affine_sq_norms(normalized, grad_outputs).unbind(-1))


def affine_sq_norms(
    normalized: Float[Tensor, "N T D"], grad_outputs: Float[Tensor, "N K T D"]
) -> Float[Tensor, "N K 2"]:
    """Both in one tensor, added up by one launch."""
    check_affine(normalized, grad_outputs)
    n, k, t, d = grad_outputs.shape
    options = blocks(t, d, grad_outputs.stride(2), grad_outputs.element_size())
    tiles = triton.cdiv(d, options["BLOCK_D"])
    partial = torch.empty(n, k, tiles, 2, dtype=torch.float32, device=grad_outputs.device)
    if partial.numel():
        strides = (*normalized.stride(), *grad_outputs.stride())
        _affine_sq_norm_kernel[(n * k * tiles,)](
            normalized, grad_outputs, partial, k, t, d, tiles, *strides, **options, **LAUNCH
        )
    return partial[:, :, 0] if tiles == 1 else partial.sum(2)
