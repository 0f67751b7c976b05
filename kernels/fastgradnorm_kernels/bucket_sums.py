r"""Signed sums of a row by bucket, `Σ_{c: h(c) = b} s(c) x[c]`, and of rows together.

A table says which columns have a bucket, so that a program gathers what it owns, BLOCK_R rows by
BLOCK_B buckets, and no two programs add to the same place: equal inputs give equal bits, with no
atomics and no zeros written first. Every number is read once, each row's from neighbouring
addresses.

With `shifts` each row's buckets are moved on, its signs multiplied by one more, and rows are added
up: the sums of a matrix whose element (r, c) has bucket `h(r) + h(c) mod k` and sign `s(r) s(c)`. A
program then sweeps `_ROWS` tiles of rows.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels._launch import LAUNCH
from fastgradnorm_kernels._validate import check_hashed
from fastgradnorm_kernels.shapes import Float, Int

# Numbers of a tile, buckets of it at most, and tiles that a program sweeps. Not measured.
_NUMBERS, _BUCKETS, _ROWS = 2048, 512, 16


@triton.jit
def _gathered(
    x_rows,  # [BLOCK_R, 1], pointers
    table_ptr,  # [slots, dim]
    place,  # [1 or BLOCK_R, BLOCK_B], buckets
    present,  # the same, whether there is one
    slots,
    dim,
    x_stride_c,
    row_present,  # [BLOCK_R, 1]
):
    """Sums `[BLOCK_R, BLOCK_B]` of what has these buckets."""
    total = tl.zeros([x_rows.shape[0], place.shape[1]], tl.float32)
    for slot in range(slots):
        entry = tl.load(table_ptr + slot * dim + place, mask=present, other=0)
        column = tl.cast(tl.abs(entry) - 1, tl.int64)
        x = tl.load(x_rows + column * x_stride_c, mask=row_present & (entry != 0), other=0.0).to(
            tl.float32
        )
        total += tl.where(entry < 0, -x, x)
    return total


@triton.jit(
    do_not_specialize=[
        *("groups", "R", "dim", "slots", "parts", "blocks"),
        *("x_stride_n", "x_stride_group", "x_stride_r", "x_stride_c"),
        *("table_stride_group", "shift_stride_n"),
    ]
)
def _hashed_sums_kernel(
    x_ptr,  # [N, groups, R, C], any strides
    table_ptr,  # [groups, slots, dim], int32
    shift_ptr,  # [N, R], int32
    out_ptr,  # [N, groups, parts or R, dim], float32
    groups,
    R,
    dim,
    slots,
    parts,
    blocks,
    x_stride_n,
    x_stride_group,
    x_stride_r,
    x_stride_c,
    table_stride_group,
    shift_stride_n,
    SHIFTED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    bucket = tl.program_id(0) % blocks * BLOCK_B + tl.arange(0, BLOCK_B)
    part = tl.program_id(0) // blocks % parts
    group = tl.cast(tl.program_id(0) // blocks // parts % groups, tl.int64)
    n = tl.cast(tl.program_id(0) // blocks // parts // groups, tl.int64)
    inside = (bucket < dim)[None, :]
    x_group = x_ptr + n * x_stride_n + group * x_stride_group
    table = table_ptr + group * table_stride_group
    first = part * BLOCK_R * ROWS
    if SHIFTED:
        total = tl.zeros([BLOCK_R, BLOCK_B], tl.float32)
        for start in range(first, tl.minimum(first + BLOCK_R * ROWS, R), BLOCK_R):
            row = start + tl.arange(0, BLOCK_R)
            code = tl.load(shift_ptr + n * shift_stride_n + row, mask=row < R, other=0)[:, None]
            place = bucket[None, :] - (tl.abs(code) - 1)
            place = tl.where(place < 0, place + dim, place)
            x_rows = x_group + tl.cast(row, tl.int64)[:, None] * x_stride_r
            there = code != 0
            sums = _gathered(x_rows, table, place, inside & there, slots, dim, x_stride_c, there)
            total += tl.where(code < 0, -sums, sums)
        slot = ((n * groups + group) * parts + part) * dim + bucket
        tl.store(out_ptr + slot, tl.sum(total, 0), mask=bucket < dim)
    else:
        row = first + tl.arange(0, BLOCK_R)
        there = (row < R)[:, None]
        far = tl.cast(row, tl.int64)[:, None]
        sums = _gathered(
            x_group + far * x_stride_r,
            table,
            bucket[None, :],
            inside,
            slots,
            dim,
            x_stride_c,
            there,
        )
        slot = ((n * groups + group) * R + far) * dim + bucket[None, :]
        tl.store(out_ptr + slot, sums, mask=there & inside)


def hashed_sums(
    x: Float[Tensor, "N G R C"],
    table: Int[Tensor, "groups slots dim"],
    shifts: Int[Tensor, "shifted R"] | None = None,
) -> Float[Tensor, "N G *R dim"]:
    """Triton form of `_hashing.torch_hashed_sums`."""
    check_hashed(x, table, shifts)
    n, groups, r, _ = x.shape
    slots, dim = table.shape[1:]
    block_b = min(_BUCKETS, triton.next_power_of_2(dim))
    block_r = min(triton.next_power_of_2(max(1, r)), _NUMBERS // block_b, 16)
    rows, blocks = _ROWS if shifts is not None else 1, triton.cdiv(dim, block_b)
    parts = triton.cdiv(r, block_r * rows)
    size = r if shifts is None else parts
    out = torch.empty(n, groups, size, dim, dtype=torch.float32, device=x.device)
    if out.numel():
        table = table.contiguous()
        codes = table if shifts is None else shifts.contiguous()
        _hashed_sums_kernel[(n * groups * parts * blocks,)](
            *(x, table, codes, out, groups, r, dim, slots, parts, blocks, *x.stride()),
            table.stride(0) if len(table) > 1 else 0,
            codes.stride(0) if shifts is not None and len(shifts) > 1 else 0,
            SHIFTED=shifts is not None,
            ROWS=rows,
            BLOCK_R=block_r,
            BLOCK_B=block_b,
            num_warps=4,
            **LAUNCH,
        )
    if shifts is None:
        return out
    return out[:, :, 0] if parts == 1 else out.sum(2)
