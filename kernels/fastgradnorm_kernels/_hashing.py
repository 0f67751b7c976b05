"""Sums of numbers by bucket, as sketches take them: an operator for GPUs, where adding is not free.

PyTorch adds numbers to their buckets by `scatter_add`, which on GPUs is one atomic addition for
each, in any order, after the signed numbers and the zeros were written. Here each bucket gathers
what is its own, through a table that is made once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgradnorm_kernels._backends import uses_triton
from fastgradnorm_kernels._errors import telling
from fastgradnorm_kernels._launch import on


def hash_table(buckets: Tensor, signs: Tensor, dim: int) -> Tensor:
    """Which columns each bucket has: `[groups, slots, dim]`, int32, from both `[groups, C]`.

    An entry is a column, counted from one, times its sign; 0 where a bucket has no more of them.

    Example:
        >>> hash_table(torch.tensor([[2, 0, 2]]), torch.tensor([[1, -1, -1]]), 3)
        tensor([[[-2,  0,  1],
                 [ 0,  0, -3]]], dtype=torch.int32)
    """
    groups, columns = buckets.shape
    ordered, order = buckets.sort(dim=1, stable=True)
    edges = torch.arange(dim, device=buckets.device).expand(groups, -1).contiguous()
    first = torch.searchsorted(ordered, edges)
    slot = torch.arange(columns, device=buckets.device) - first.gather(1, ordered)
    slots = int(slot.max()) + 1 if slot.numel() else 1
    table = torch.zeros(groups, slots * dim, dtype=torch.int32, device=buckets.device)
    entries = (order + 1) * signs.gather(1, order)
    return table.scatter_(1, slot * dim + ordered, entries.int()).view(groups, slots, dim)


def hash_codes(buckets: Tensor, signs: Tensor) -> Tensor:
    """Buckets, counted from one, times their signs, int32: what `hashed_sums` moves rows by."""
    return ((buckets + 1) * signs).int()


def torch_hashed_sums(x: Tensor, table: Tensor, shifts: Tensor | None) -> Tensor:
    """The specification of `hashed_sums`, in the dtype that x is summed in."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    padded = torch.cat([x.new_zeros(*x.shape[:-1], 1), x], -1)  # which column 0 is none
    columns = table.abs().long().expand(x.shape[1], -1, -1)
    index = columns.flatten(1)[None, :, None].expand(*x.shape[:-1], -1)
    found = padded.gather(-1, index).unflatten(-1, columns.shape[1:])
    sums: Tensor = (found * table.sign()[:, None]).sum(-2)
    if shifts is None:
        return sums
    dim = table.shape[-1]
    place = (torch.arange(dim, device=x.device) - (shifts.abs().long() - 1)[..., None]) % dim
    moved = sums.gather(-1, place[:, None].expand(sums.shape))
    zero = (shifts == 0)[:, None, :, None]
    added: Tensor = torch.where(zero, 0.0, moved * shifts.sign()[:, None, :, None]).sum(2)
    return added


@torch.library.custom_op("fastgradnorm::hashed_sums", mutates_args=())
@telling("hashed_sums")
def _hashed_sums(x: Tensor, table: Tensor, shifts: Tensor | None) -> Tensor:
    from fastgradnorm_kernels import bucket_sums

    with on(x):
        return bucket_sums.hashed_sums(x, table, shifts)


def hashed_sums(
    x: Tensor, table: Tensor, shifts: Tensor | None = None, backend: str = "auto"
) -> Tensor:
    r"""`Σ_{c: h(c) = b} s(c) x[..., c]` `[N, G, R, k]` of `x [N, G, R, C]`, in float32 or wider.

    With `shifts` rows are added up, each with its buckets moved on: `[N, G, k]`. With Triton equal
    inputs give equal bits.

    Args:
        x: The numbers.
        table: `hash_table` `[G or 1, slots, k]` of their columns.
        shifts: `hash_codes` `[N or 1, R]` of their rows; 0 leaves a row out.
        backend: As of other operations.
    """
    sums: Tensor = (_hashed_sums if uses_triton(backend, x) else torch_hashed_sums)(
        x, table, shifts
    )
    return sums


def _rule(
    info: Any, in_dims: Sequence[int | None], x: Tensor, table: Tensor, shifts: Tensor | None
) -> tuple[Tensor, int]:
    size, (dim, _, shift_dim) = info.batch_size, in_dims
    x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    n, r = x.shape[1], x.shape[3]
    if shifts is not None and (shift_dim is not None or len(shifts) > 1):
        each = shifts[None] if shift_dim is None else shifts.movedim(shift_dim, 0)
        shifts = each.expand(size, n, r).flatten(0, 1)
    return _hashed_sums(x.flatten(0, 1), table, shifts).unflatten(0, (size, n)), 0


def _fake(x: Tensor, table: Tensor, shifts: Tensor | None) -> Tensor:
    rows = x.shape[2:3] if shifts is None else ()
    return x.new_empty(*x.shape[:2], *rows, table.shape[-1], dtype=torch.float32)


_hashed_sums.register_vmap(_rule)
_hashed_sums.register_fake(_fake)
