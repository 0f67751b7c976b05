"""Weight gradients of one sample as matrix products, turned so that the processor is busy.

oneDNN makes a product of few columns at a third of its rate, however many rows it has: the narrower
factor gives the rows, of all cotangents at once.
"""

from collections.abc import Iterator

from torch import Tensor

from fastgradnorm_kernels._matmul import linear, matmul
from fastgradnorm_kernels.shapes import Float

# Columns below which that is so: of 1,024 positions, 12 to 24 outputs and 200 to 1,000 inputs
# products took 2.1 to 4.7 times as long. And numbers of several gradients that stay in the cache.
_NARROW, _STACKED = 32, 1 << 20


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


def is_narrow(outputs: int, inputs: int) -> bool:
    """Whether products with so many columns leave the processor idle, as oneDNN makes them."""
    return outputs < min(_NARROW, inputs)


def copied(rows: Float[Tensor, "N ... T D"]) -> int:
    """Numbers of one sample that must be copied to have the positions last."""
    is_there = rows[(0,) * (rows.dim() - 2)].mT.is_contiguous()
    return 0 if is_there else rows[0].numel()
