"""Weight gradients of one sample as matrix products, turned so that the processor is busy.

oneDNN makes a product of few columns at a third of its rate, however many rows it has: the narrower
factor gives the rows, of all cotangents at once.
"""

from collections.abc import Iterator

from torch import Tensor

from fastgradnorm_kernels._matmul import linear, matmul, prefers_onednn
from fastgradnorm_kernels.shapes import Float

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


def gradients(
    a: Float[Tensor, "T I"], g: Float[Tensor, "K T O"], flips: bool
) -> Iterator[Float[Tensor, " OI"]]:
    """One sample's gradients. Of both factors one has the positions last in memory.

    Those of several cotangents, as long as they stay in the cache, are one product if it `flips`.
    """
    if not flips:
        rows = a.mT.contiguous()
        yield from (matmul(rows, each).view(-1) for each in g)
        return
    _, t, o = g.shape
    for some in g.split(max(1, _STACKED // max(1, o * a.shape[1]))):
        yield from linear(some.mT.reshape(-1, t), a.mT).view(len(some), -1)


def sq_norms_together(
    a: Float[Tensor, "T I"], g: Float[Tensor, "K T O"]
) -> Iterator[Float[Tensor, " K"]]:
    """Squared norms of one sample's gradients, for cotangents with the outputs last in memory.

    Those of some, as long as they stay in the cache, are side by side in the columns of a product.
    """
    _, t, o = g.shape
    rows = a.mT.contiguous()
    for some in g.split(max(1, _STACKED // max(1, o * len(rows)))):
        columns = some.transpose(0, 1).reshape(t, -1)
        found = linear(rows, columns.mT).view(len(rows), len(some), o)
        yield found.square_().sum((0, 2))


def is_narrow(outputs: int, inputs: int) -> bool:
    """Whether products with so many columns leave the processor idle, as oneDNN makes them."""
    return outputs < min(_NARROW, inputs)


def copied(rows: Float[Tensor, "N ... T D"]) -> int:
    """Numbers of one sample that must be copied to have the positions last."""
    is_there = rows[(0,) * (rows.dim() - 2)].mT.is_contiguous()
    return 0 if is_there else rows[0].numel()
