r"""`Σ_v ‖Σ_{t: id_t = v} g_t‖²`: the rows of an embedding, without a vocabulary-sized tensor.

Each sample's positions are sorted by token, and its distinct tokens numbered: slots. A program owns
BLOCK_S slots and BLOCK_O outputs of one sample and cotangent. The positions of its slots are
neighbours in the sorted order; it gathers just those, adds them up per slot by a product with a 0/1
matrix (exact in every dtype), and squares. Every row of g is read once, save where a tile ends
inside a block.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels._launch import LAUNCH
from fastgradnorm_kernels._validate import check_embedding, dense
from fastgradnorm_kernels.shapes import Float, Int

BLOCKS = {"BLOCK_S": 16, "BLOCK_T": 32, "BLOCK_O": 64, "num_warps": 4, "num_stages": 3}


@triton.jit
def _embedding_sq_norm_kernel(
    g_ptr,  # [N, K, T, O]
    order_ptr,  # [N, T], int32: positions sorted by token
    slot_ptr,  # [N, T], int32: slot of each sorted position, -1 for padding
    bounds_ptr,  # [N, tiles + 1], int32: where each tile's slots begin in the sorted order
    partial_ptr,  # [N, K, tiles, blocks], float32
    K,
    T,
    O,
    tiles,
    blocks,
    g_stride_n,
    g_stride_k,
    BLOCK_S: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    block = tl.cast(tl.program_id(0) % blocks, tl.int64)
    tile = tl.program_id(0) // blocks % tiles
    nk = tl.cast(tl.program_id(0) // blocks // tiles, tl.int64)
    n, k = nk // K, nk % K
    o = block * BLOCK_O + tl.arange(0, BLOCK_O)
    slots = tile * BLOCK_S + tl.arange(0, BLOCK_S)
    g_rows = g_ptr + n * g_stride_n + k * g_stride_k
    bounds = bounds_ptr + n * (tiles + 1) + tile
    end = tl.load(bounds + 1)
    total = tl.zeros([BLOCK_S, BLOCK_O], tl.float32)
    for start in range(tl.load(bounds), end, BLOCK_T):
        i = start + tl.arange(0, BLOCK_T)
        t = tl.load(order_ptr + n * T + i, mask=i < end, other=0).to(tl.int64)
        slot = tl.load(slot_ptr + n * T + i, mask=i < end, other=-1)
        mask = (i < end)[:, None] & (o < O)[None, :]
        g = tl.load(g_rows + t[:, None] * O + o[None, :], mask=mask, other=0.0)
        same = (slots[:, None] == slot[None, :]).to(g.dtype)  # [BLOCK_S, BLOCK_T]
        # Always IEEE: TF32 would round g, which nothing here multiplies.
        total = tl.dot(same, g, total, input_precision="ieee")
    tl.store(partial_ptr + tl.program_id(0).to(tl.int64), tl.sum(total * total))


def _slots(ids: Tensor, padding_idx: int | None, tiles: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sorted order [N, T], slots in that order [N, T], and each tile's bounds [N, tiles + 1]."""
    ids = ids.contiguous()  # `sort` keeps strides
    if padding_idx is not None:
        ids = ids.masked_fill(ids == padding_idx, -1)  # first in the order, and in no slot
    tokens, order = ids.sort(dim=1, stable=True)
    new = torch.ones_like(tokens, dtype=torch.int32)
    new[:, 1:] = tokens[:, 1:] != tokens[:, :-1]
    slots = new.mul_(tokens >= 0).cumsum(1, dtype=torch.int32) - 1
    first = torch.arange(tiles + 1, dtype=torch.int32, device=ids.device) * BLOCKS["BLOCK_S"]
    bounds = torch.searchsorted(slots, first.expand(ids.shape[0], -1).contiguous(), out_int32=True)
    return order.int(), slots, bounds


def embedding_sq_norm(
    ids: Int[Tensor, "N T"],
    grad_outputs: Float[Tensor, "N K T O"],
    padding_idx: int | None = None,
) -> Float[Tensor, "N K"]:
    """Triton form of :func:`fastgradnorm_kernels.reference.embedding_sq_norm`."""
    check_embedding(ids, grad_outputs)
    g = dense(grad_outputs, 2)
    n, k, t, o = g.shape
    tiles, blocks = triton.cdiv(t, BLOCKS["BLOCK_S"]), triton.cdiv(o, BLOCKS["BLOCK_O"])
    partial = torch.empty(n, k, tiles, blocks, dtype=torch.float32, device=g.device)
    if partial.numel():
        order, slots, bounds = _slots(ids, padding_idx, tiles)
        _embedding_sq_norm_kernel[(partial.numel(),)](
            g,
            order,
            slots,
            bounds,
            partial,
            k,
            t,
            o,
            tiles,
            blocks,
            *g.stride()[:2],
            **BLOCKS,
            **LAUNCH,
        )
    return partial.sum((-1, -2))
