"""Weight gradients of one sample as matrix products, turned so that the processor is busy.

oneDNN makes a product of few columns at a third of its rate, however many rows it has: the narrower
factor gives the rows, of all cotangents at once.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastgradnorm_kernels._matmul import linear, prefers_onednn
from fastgradnorm_kernels.shapes import Float
from fastgradnorm_kernels.squares import sum_of_squares

# Columns below which that is so: of 1,024 positions, 12 to 24 outputs and 200 to 1,000 inputs
# products took 2.1 to 4.7 times as long. And numbers of several gradients that stay in the cache.
_NARROW, _STACKED = 32, 1 << 20
# Multiplications of a sample from which on it is a matrix product of its own, and what follows
# finds that in the cache; twice as many where something must be copied for it. Until then a call
# of all is faster: of 1,024 positions, 32 inputs and 32 outputs in half the time.
_OWN_CALL = 1 << 21


def has_own_calls(a: Float[Tensor, "N T I"], g: Float[Tensor, "N K T O"]) -> bool:
    """Whether products of each sample by itself are faster than all in one call."""
    _, k, t, o = g.shape
    work = t * o * a.shape[-1]
    if k > 1 and g.device.type == "cpu" and prefers_onednn():
        return k * work >= _OWN_CALL
    return work >= (2 * _OWN_CALL if copied(a) and copied(g) else _OWN_CALL)


def sq_norms(
    a: Float[Tensor, "T I"], g: Float[Tensor, "K T O"], flips: bool
) -> Iterator[Float[Tensor, " K"]]:
    """Squared norms of one sample's gradients, of some cotangents after the other.

    Those of several, as long as they stay in the cache, are one product: their outputs are its rows
    if it `flips`, or else its columns.
    """
    k, t, o = g.shape
    rows = a.mT if flips else a.mT.contiguous()
    for some in g.split(max(1, _STACKED // max(1, o * len(rows)))):
        if flips:
            found = linear(some.mT.reshape(-1, t), rows).view(len(some), -1)
        else:
            found = linear(rows, some.transpose(0, 1).reshape(t, -1).mT)
        if k == 1:
            yield torch.dot(found.view(-1), found.view(-1))[None]
        elif flips:
            yield sum_of_squares(found)
        else:
            yield found.view(len(rows), -1, o).square_().sum((0, 2))


def is_narrow(outputs: int, inputs: int) -> bool:
    """Whether products with so many columns leave the processor idle, as oneDNN makes them."""
    return outputs < min(_NARROW, inputs)


def copied(rows: Float[Tensor, "N ... T D"]) -> int:
    """Numbers of one sample that must be copied to have the positions last."""
    is_there = rows[(0,) * (rows.dim() - 2)].mT.is_contiguous()
    return 0 if is_there else rows[0].numel()
