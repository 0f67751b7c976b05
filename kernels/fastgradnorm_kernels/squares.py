"""Sums of squares of rows, right also where one number of a wide row outweighs the others."""

import torch
from torch import Tensor

# Numbers of a row from which on its squares are not kept, and of a block of it.
_WIDE, _BLOCK = 1 << 8, 1 << 6


def sum_of_squares(x: Tensor) -> Tensor:
    r"""`Σ_d x_d²` over the last dimension, in the dtype of `x`.

    On a CPU `vector_norm` adds up a row in a few running sums. What stands there already may be so
    large that the squares of small numbers behind it are rounded off: a thousandth of a per cent of
    the norm of a posterior less its class, at some thousand classes. So wide rows are summed by
    blocks, and the blocks by PyTorch's sum, which adds in pairs. Both read the row once.
    """
    width = x.shape[-1]
    if width < _WIDE:
        return x.square().sum(-1)
    if x.device.type != "cpu":
        return _square_of_norm(x)
    whole = width - width % _BLOCK
    total = _square_of_norm(x[..., :whole].unflatten(-1, (-1, _BLOCK))).sum(-1)
    return total if whole == width else total + _square_of_norm(x[..., whole:])


def _square_of_norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norm.square()
