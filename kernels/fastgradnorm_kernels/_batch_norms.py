"""Scale and shift of batch norms on processors: PyTorch's own sums, sample by sample.

They read input and gradient once, where a normalised input, its product with the gradient and two
sums are seven passes over memory.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm_kernels import operators, reference
from fastgradnorm_kernels.shapes import Float

# Numbers of a sample from which on calls of its own are faster: of 50,000 1.2 to 2.5 times, of
# 800,000 1.4 to 5 times, of 12,000 as fast.
_LARGE = 1 << 15


def batch_norm_sq_norms(
    x: Float[Tensor, "N C *space"],
    g: Float[Tensor, "N K C *space"],
    mean: Float[Tensor, " C"],
    var: Float[Tensor, " C"],
    eps: float,
) -> Float[Tensor, "N K 2"]:
    """Squared norms of the gradients of scale and shift, by running statistics."""
    if x.numel() < _LARGE * len(x) or x.dim() < 3 or not operators.has_batch_norm_gradients():
        return torch.stack(reference.affine_sq_norm(*normalized_rows(x, g, mean, var, eps)), -1)
    wide = reference.accumulation_dtype(g.dtype)
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    format = torch.channels_last if last else torch.contiguous_format
    statistics, found = (mean.to(wide), var.to(wide), eps), list[Tensor]()
    for sample, cotangents in zip(x, g, strict=True):
        one = _alone(sample.to(wide), format)
        for each in cotangents:
            sums = operators.batch_norm_gradients(_alone(each.to(wide), format), one, *statistics)
            found += [reference.dot(total, total) for total in sums]
    return torch.stack(found).view(*g.shape[:2], 2)


def _alone(sample: Tensor, format: torch.memory_format) -> Tensor:
    """A batch of one, of equal strides for equal shapes.

    PyTorch reads the layout of each from all strides, that of a dimension of one included, and
    gives other numbers, in silence, where it reads two.
    """
    batch = sample[None].contiguous(memory_format=format)
    return batch.as_strided(batch.shape, (batch.numel(), *batch.stride()[1:]))


def normalized_rows(
    x: Tensor, g: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Float[Tensor, "N T C"], Float[Tensor, "N K T C"]]:
    """Normalised inputs and gradients, by position."""
    x_hat = F.batch_norm(x, mean, var, None, None, False, 0.0, eps)
    if x.dim() == 2:
        return x_hat[:, None], g[:, :, None]
    return x_hat.flatten(2).mT, g.flatten(3).mT
