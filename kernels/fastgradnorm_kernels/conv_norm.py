r"""The squared norm of a convolution's weight gradient, gathering patches on the fly.

The positions are the output's, `t = 1..T`, the inputs of one group are `i = (channel, kernel
position)`, and `a[t, i]` is read from `x` where the convolution would read it, zero in the padding:
nothing is unfolded. Otherwise as in :mod:`direct_norm` (a program owns TILES gradient tiles) and
:mod:`ghost_norm` (a program owns one tile of the Grams); groups have no cross terms, so that their
parts add up. One and two dimensions are three with sizes of one.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels import direct_norm, ghost_norm
from fastgradnorm_kernels._validate import check_conv, check_precision, dense
from fastgradnorm_kernels.ghost_norm import tile_pair
from fastgradnorm_kernels.reference import GhostNorm
from fastgradnorm_kernels.shapes import Bool, Float


@triton.jit
def _patches(x_ptr, t, i, T, I, SPACE, OUT, GEOMETRY: tl.constexpr):
    """What positions `t` see at inputs `i` (they broadcast) of one group `[I / volume, *SPACE]`."""
    KERNEL: tl.constexpr = GEOMETRY[0]
    STRIDE: tl.constexpr = GEOMETRY[1]
    PADDING: tl.constexpr = GEOMETRY[2]
    DILATION: tl.constexpr = GEOMETRY[3]
    volume: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
    tap = i % volume
    z = t // (OUT[1] * OUT[2]) * STRIDE[0] - PADDING[0]
    y = t // OUT[2] % OUT[1] * STRIDE[1] - PADDING[1]
    x = t % OUT[2] * STRIDE[2] - PADDING[2]
    z = z + tap // (KERNEL[1] * KERNEL[2]) * DILATION[0]
    y = y + tap // KERNEL[2] % KERNEL[1] * DILATION[1]
    x = x + tap % KERNEL[2] * DILATION[2]
    inside = (t < T) & (i < I) & (z >= 0) & (z < SPACE[0])
    inside = inside & (y >= 0) & (y < SPACE[1]) & (x >= 0) & (x < SPACE[2])
    # Within one sample 32 bits reach everything: check_conv. Twice the registers would spill.
    offsets = ((i // volume * SPACE[0] + z) * SPACE[1] + y) * SPACE[2] + x
    return tl.load(x_ptr + offsets, mask=inside, other=0.0)


@triton.jit
def _group_start(group, I, SPACE, GEOMETRY: tl.constexpr):
    """Elements of one sample's input before the group's first channel."""
    volume: tl.constexpr = GEOMETRY[0][0] * GEOMETRY[0][1] * GEOMETRY[0][2]
    return group * (I // volume) * SPACE[0] * SPACE[1] * SPACE[2]


@triton.jit
def _conv_direct_kernel(
    x_ptr,  # [N, groups * I / volume, *SPACE], samples `x_stride_n` apart
    g_ptr,  # [N, K, groups * O, *OUT]
    needed_ptr,  # [N, K], int8
    partial_ptr,  # [N, K, groups, programs], float32
    K,
    T,
    I,
    O,
    groups,
    programs,
    x_stride_n,
    g_stride_n,
    g_stride_k,
    SPACE,
    OUT,
    GEOMETRY: tl.constexpr,
    TILES: tl.constexpr,
    HAS_NEEDED: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_T: tl.constexpr,
    PRECISION: tl.constexpr,
):
    first = tl.program_id(0) % programs * TILES
    group = tl.cast(tl.program_id(0) // programs % groups, tl.int64)
    nk = tl.cast(tl.program_id(0) // programs // groups, tl.int64)
    n, k = nk // K, nk % K
    tiles_i = tl.cdiv(I, BLOCK_I)
    end = tl.minimum(first + TILES, tl.cdiv(O, BLOCK_O) * tiles_i)
    if HAS_NEEDED:
        end = tl.where(tl.load(needed_ptr + nk) != 0, end, first)
    x_group = x_ptr + n * x_stride_n + _group_start(group, I, SPACE, GEOMETRY)
    g_group = g_ptr + n * g_stride_n + k * g_stride_k + group * O * T
    total = 0.0
    for tile in range(first, end):
        outputs = tile // tiles_i * BLOCK_O + tl.arange(0, BLOCK_O)
        inputs = tile % tiles_i * BLOCK_I + tl.arange(0, BLOCK_I)
        g_rows = g_group + outputs[:, None] * T
        gradient = tl.zeros([BLOCK_O, BLOCK_I], tl.float32)
        for start in range(0, T, BLOCK_T):
            t = start + tl.arange(0, BLOCK_T)
            g_mask = (outputs < O)[:, None] & (t < T)[None, :]
            g = tl.load(g_rows + t[None, :], mask=g_mask, other=0.0)  # [BLOCK_O, BLOCK_T]
            a = _patches(x_group, t[:, None], inputs[None, :], T, I, SPACE, OUT, GEOMETRY)
            gradient = tl.dot(g, a, gradient, input_precision=PRECISION)
        total += tl.sum(gradient * gradient)
    tl.store(partial_ptr + tl.program_id(0).to(tl.int64), total)


@triton.jit
def _gradient_gram(
    g_ptr,  # [O, T]
    rows,
    columns,
    T,
    O,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Inner products [BLOCK_T, BLOCK_T] of positions `rows` with positions `columns`."""
    gram = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    for start in range(0, O, BLOCK_D):
        o = start + tl.arange(0, BLOCK_D)
        left_mask = (rows < T)[:, None] & (o < O)[None, :]
        right_mask = (columns < T)[None, :] & (o < O)[:, None]
        left = tl.load(g_ptr + o[None, :] * T + rows[:, None], mask=left_mask, other=0.0)
        right = tl.load(g_ptr + o[:, None] * T + columns[None, :], mask=right_mask, other=0.0)
        gram = tl.dot(left, right, gram, input_precision=PRECISION)
    return gram


@triton.jit
def _conv_ghost_kernel(
    x_ptr,  # [N, groups * I / volume, *SPACE], samples `x_stride_n` apart
    g_ptr,  # [N, K, groups * O, *OUT]
    partial_ptr,  # [2, N, K, groups, pairs], float32: squared norm, uncancelled
    N,
    K,
    T,
    I,
    O,
    groups,
    pairs,
    x_stride_n,
    g_stride_n,
    g_stride_k,
    SPACE,
    OUT,
    GEOMETRY: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    chunks = tl.cdiv(K, CHUNK)
    pair = tl.program_id(0) % pairs
    chunk = tl.program_id(0) // pairs % chunks
    group = tl.cast(tl.program_id(0) // pairs // chunks % groups, tl.int64)
    n = tl.cast(tl.program_id(0) // pairs // chunks // groups, tl.int64)
    row, column = tile_pair(pair)
    rows = row * BLOCK_T + tl.arange(0, BLOCK_T)
    columns = column * BLOCK_T + tl.arange(0, BLOCK_T)
    x_group = x_ptr + n * x_stride_n + _group_start(group, I, SPACE, GEOMETRY)
    gram_a = tl.zeros([BLOCK_T, BLOCK_T], tl.float32)
    for start in range(0, I, BLOCK_D):
        i = start + tl.arange(0, BLOCK_D)
        left = _patches(x_group, rows[:, None], i[None, :], T, I, SPACE, OUT, GEOMETRY)
        right = _patches(x_group, columns[None, :], i[:, None], T, I, SPACE, OUT, GEOMETRY)
        gram_a = tl.dot(left, right, gram_a, input_precision=PRECISION)
    weight = tl.where(row == column, 1.0, 2.0)
    diagonal = rows[:, None] == columns[None, :]
    plane = tl.cast(N, tl.int64) * K * groups * pairs
    for k in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, K)):
        g_group = g_ptr + n * g_stride_n + tl.cast(k, tl.int64) * g_stride_k + group * O * T
        gram = gram_a * _gradient_gram(g_group, rows, columns, T, O, BLOCK_D, PRECISION)
        slot = partial_ptr + ((n * K + k) * groups + group) * pairs + pair
        tl.store(slot, weight * tl.sum(gram))
        tl.store(slot + plane, tl.sum(tl.where(diagonal, gram, 0.0)))


def _depth(dtype: torch.dtype, input_precision: str) -> int:
    """Patches gathered at a time: fewer than in plain products, each has an address and a mask."""
    return 16 if dtype == torch.float32 and input_precision == "ieee" else 32


def _three(options: Sequence[int], fill: int) -> tuple[int, ...]:
    return (fill,) * (3 - len(options)) + tuple(options)


def _prepare(
    x: Tensor, grad_outputs: Tensor, options: Sequence[Sequence[int]], groups: int
) -> tuple[Tensor, Tensor, dict[str, Any], tuple[int, int, int]]:
    """Contiguous tensors, the constants of the convolution, and T, I, O of one group."""
    check_conv(x, grad_outputs, options, groups)
    dims = x.ndim - 2
    x, g = dense(x, dims + 1), dense(grad_outputs, dims + 1)
    kernel, stride, padding, dilation = options
    constants = {
        "SPACE": _three(x.shape[2:], 1),
        "OUT": _three(g.shape[3:], 1),
        "GEOMETRY": (_three(kernel, 1), _three(stride, 1), _three(padding, 0), _three(dilation, 1)),
    }
    inputs = x.shape[1] // groups * math.prod(kernel)
    return x, g, constants, (math.prod(g.shape[3:]), inputs, g.shape[2] // groups)


def conv_direct_sq_norm(
    x: Float[Tensor, "N C *space"],
    grad_outputs: Float[Tensor, "N K O *out"],
    options: Sequence[Sequence[int]],
    groups: int,
    needed: Bool[Tensor, "N K"] | None = None,
    *,
    input_precision: str = "ieee",
) -> Float[Tensor, "N K"]:
    """`direct_sq_norm` of a convolution with kernel size, stride, padding, dilation: `options`."""
    check_precision(input_precision)
    x, g, constants, (t, i, o) = _prepare(x, grad_outputs, options, groups)
    n, k = g.shape[:2]
    depth = _depth(x.dtype, input_precision)
    blocks = direct_norm.blocks(x.dtype, input_precision, i, o) | {
        "BLOCK_T": depth,
        "num_warps": 8 if min(i, o) >= 128 or depth < 32 else 4,
        "num_stages": 2,
        "TILES": 1 if needed is None else direct_norm.TILES_IF_NEEDED,
        "HAS_NEEDED": needed is not None,
        "PRECISION": input_precision,
    }
    tiles = triton.cdiv(o, blocks["BLOCK_O"]) * triton.cdiv(i, blocks["BLOCK_I"])
    programs = triton.cdiv(tiles, blocks["TILES"])
    partial = torch.empty(n, k, groups, programs, dtype=torch.float32, device=x.device)
    flags = partial if needed is None else needed.to(torch.int8).contiguous()
    if partial.numel():
        strides = (x.stride(0), *g.stride()[:2])
        _conv_direct_kernel[(partial.numel(),)](
            x, g, flags, partial, k, t, i, o, groups, programs, *strides, **constants, **blocks
        )
    return partial.sum((-1, -2))


def conv_ghost_sq_norm(
    x: Float[Tensor, "N C *space"],
    grad_outputs: Float[Tensor, "N K O *out"],
    options: Sequence[Sequence[int]],
    groups: int,
    *,
    input_precision: str = "ieee",
) -> GhostNorm:
    """`ghost_sq_norm` of a convolution with kernel size, stride, padding, dilation: `options`."""
    check_precision(input_precision)
    x, g, constants, (t, i, o) = _prepare(x, grad_outputs, options, groups)
    n, k = g.shape[:2]
    blocks = ghost_norm.blocks(x.dtype, input_precision, t) | {
        "BLOCK_D": _depth(x.dtype, input_precision),
        "num_stages": 2,
        "CHUNK": ghost_norm.chunk_size(i, o),
        "PRECISION": input_precision,
    }
    tiles = triton.cdiv(t, blocks["BLOCK_T"])
    pairs = tiles * (tiles + 1) // 2
    partial = torch.empty(2, n, k, groups, pairs, dtype=torch.float32, device=x.device)
    if partial.numel():
        grid = (n * groups * pairs * triton.cdiv(k, blocks["CHUNK"]),)
        strides = (x.stride(0), *g.stride()[:2])
        _conv_ghost_kernel[grid](
            x, g, partial, n, k, t, i, o, groups, pairs, *strides, **constants, **blocks
        )
    return GhostNorm(partial[0].sum((-1, -2)), partial[1].sum((-1, -2)))
