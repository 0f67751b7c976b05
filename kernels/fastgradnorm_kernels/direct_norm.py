r"""`‖Σ_t g_t a_tᵀ‖²`: a weight gradient's squared norm by tiles of the gradient.

A program owns TILES tiles [BLOCK_O, BLOCK_I] of one sample's gradient for one cotangent, forms each
by sweeping the positions, squares it and adds it up. No [O, I] matrix reaches memory.

With `needed` [N, K] only the marked norms are formed and the others are zero, decided on the GPU:
the few ghost norms whose terms cancelled are recomputed without waiting for the host.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels._validate import check_pair, check_precision, dense
from fastgradnorm_kernels.shapes import Bool, Float

# Tiles a program tries one after the other where few are needed: fewer programs that do nothing.
TILES_IF_NEEDED = 16


@triton.jit
def _direct_sq_norm_kernel(
    a_ptr,  # [N, T, I], samples `a_stride_n` apart
    g_ptr,  # [N, K, T, O]
    needed_ptr,  # [N, K], int8
    partial_ptr,  # [N, K, programs], float32
    K,
    T,
    I,
    O,
    programs,
    a_stride_n,
    g_stride_n,
    g_stride_k,
    TILES: tl.constexpr,
    HAS_NEEDED: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_T: tl.constexpr,
    PRECISION: tl.constexpr,
):
    nk = tl.cast(tl.program_id(0) // programs, tl.int64)
    first = tl.program_id(0) % programs * TILES
    n, k = nk // K, nk % K
    tiles_i = tl.cdiv(I, BLOCK_I)
    end = tl.minimum(first + TILES, tl.cdiv(O, BLOCK_O) * tiles_i)
    if HAS_NEEDED:
        end = tl.where(tl.load(needed_ptr + nk) != 0, end, first)
    a_rows = a_ptr + n * a_stride_n
    g_rows = g_ptr + n * g_stride_n + k * g_stride_k
    total = 0.0
    for tile in range(first, end):
        outputs = tile // tiles_i * BLOCK_O + tl.arange(0, BLOCK_O)
        inputs = tile % tiles_i * BLOCK_I + tl.arange(0, BLOCK_I)
        gradient = tl.zeros([BLOCK_O, BLOCK_I], tl.float32)
        for start in range(0, T, BLOCK_T):
            t = start + tl.arange(0, BLOCK_T)  # 32 bits reach all of one sample: check_pair
            g_mask = (outputs < O)[:, None] & (t < T)[None, :]
            a_mask = (t < T)[:, None] & (inputs < I)[None, :]
            g = tl.load(g_rows + t[None, :] * O + outputs[:, None], mask=g_mask, other=0.0)
            a = tl.load(a_rows + t[:, None] * I + inputs[None, :], mask=a_mask, other=0.0)
            gradient = tl.dot(g, a, gradient, input_precision=PRECISION)
        total += tl.sum(gradient * gradient)
    tl.store(partial_ptr + tl.program_id(0).to(tl.int64), total)


def blocks(dtype: torch.dtype, input_precision: str, inputs: int, outputs: int) -> dict[str, Any]:
    """Block sizes, warps and stages for this dtype, precision and gradient shape."""
    depth = 64 if dtype != torch.float32 else 16 if input_precision == "ieee" else 32
    if outputs <= 16 or inputs <= 16:
        return {"BLOCK_O": 16, "BLOCK_I": 64, "BLOCK_T": depth, "num_warps": 2, "num_stages": 3}
    if outputs < 128 or inputs < 128:
        return {"BLOCK_O": 64, "BLOCK_I": 64, "BLOCK_T": depth, "num_warps": 4, "num_stages": 3}
    return {"BLOCK_O": 128, "BLOCK_I": 128, "BLOCK_T": depth, "num_warps": 8, "num_stages": 3}


def direct_sq_norm(
    activations: Float[Tensor, "N T I"],
    grad_outputs: Float[Tensor, "N K T O"],
    needed: Bool[Tensor, "N K"] | None = None,
    *,
    input_precision: str = "ieee",
) -> Float[Tensor, "N K"]:
    """Triton form of `reference.direct_sq_norm`, for the `needed` norms; the others are zero."""
    check_pair(activations, grad_outputs)
    check_precision(input_precision)
    a, g = dense(activations, 2), dense(grad_outputs, 2)
    n, k, t, o = g.shape
    i = a.shape[2]
    options = blocks(a.dtype, input_precision, i, o) | {
        "TILES": 1 if needed is None else TILES_IF_NEEDED,
        "num_stages": 3 if needed is None else 2,
        "HAS_NEEDED": needed is not None,
        "PRECISION": input_precision,
    }
    tiles = triton.cdiv(o, options["BLOCK_O"]) * triton.cdiv(i, options["BLOCK_I"])
    programs = triton.cdiv(tiles, options["TILES"])
    partial = torch.empty(n, k, programs, dtype=torch.float32, device=a.device)
    flags = partial if needed is None else needed.to(torch.int8).contiguous()
    if partial.numel():
        strides = (a.stride(0), *g.stride()[:2])
        _direct_sq_norm_kernel[(n * k * programs,)](
            a, g, flags, partial, k, t, i, o, programs, *strides, **options
        )
    return partial.sum(-1)
