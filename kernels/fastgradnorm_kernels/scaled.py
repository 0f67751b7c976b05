"""`g[n, c, *] * scale[c]`, a batch norm's pull-back, in one pass over memory.

Computed in float32 and written in g's dtype: PyTorch would write float32 numbers and read them
again for that. In memory g is a matrix either way: its columns are the channels where these are
last, else its rows are those of one channel each. A program owns [BLOCK_R, BLOCK_C] of it.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels._addresses import aligned
from fastgradnorm_kernels._launch import LAUNCH
from fastgradnorm_kernels.shapes import Float
from fastgradnorm_kernels.windows import vector

# Numbers a program, 16 bytes a thread and load of half precision; not measured.
_NUMBERS = 4096
_WIDEST = (
    64  # columns, of which half precision fills a cache line: wider layers share a compilation
)


@triton.jit(do_not_specialize=["rows", "columns", "channels"])
def _scaled_kernel(
    g_ptr,  # [rows, columns]
    weight_ptr,  # [channels]
    var_ptr,  # [channels]
    out_ptr,  # [rows, columns]
    rows,
    columns,
    channels,
    EPS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    columns = aligned(columns, VECTOR)
    column_blocks = tl.cdiv(columns, BLOCK_C)
    column = tl.program_id(0) % column_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    first = tl.cast(tl.program_id(0) // column_blocks, tl.int64) * BLOCK_R
    row = first + tl.arange(0, BLOCK_R)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    places = row[:, None] * columns + column[None, :]
    channel = tl.where(column < columns, column, 0) if CHANNELS_LAST else row % channels
    scale = 1.0 / tl.sqrt_rn(tl.load(var_ptr + channel).to(tl.float32) + EPS)
    if HAS_WEIGHT:
        scale *= tl.load(weight_ptr + channel).to(tl.float32)
    scale = scale[None, :] if CHANNELS_LAST else scale[:, None]
    product = tl.load(g_ptr + places, mask=inside).to(tl.float32) * scale
    tl.store(out_ptr + places, product, mask=inside)


def scaled_channels(
    g: Float[Tensor, "N C *space"],
    var: Float[Tensor, " C"],
    weight: Float[Tensor, " C"] | None,
    eps: float,
) -> Float[Tensor, "N C *space"]:
    """Triton form of `reference.scaled_channels`; g is copied where it has gaps in memory."""
    channels = g.shape[1]
    last = g.movedim(1, -1).is_contiguous()
    if not last:
        g = g.contiguous()
    out = torch.empty_like(g)
    if not g.numel():
        return out
    factors = var if weight is None else weight
    columns = channels if last else g[0, 0].numel()
    rows = g.numel() // columns
    block = min(_WIDEST, triton.next_power_of_2(columns))
    grid = (triton.cdiv(columns, block) * triton.cdiv(rows, _NUMBERS // block),)
    _scaled_kernel[grid](
        *(g, factors.contiguous(), var.contiguous(), out, rows, columns, channels),
        EPS=eps,
        HAS_WEIGHT=weight is not None,
        CHANNELS_LAST=last,
        VECTOR=vector(columns, g.element_size()),
        BLOCK_R=_NUMBERS // block,
        BLOCK_C=block,
        num_warps=4,
        **LAUNCH,
    )
    return out
