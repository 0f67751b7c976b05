"""Scale and shift of batch norms on processors: PyTorch's own sums, sample by sample.

They read input and gradient once, where a normalised input, its product with the gradient and two
sums are seven passes over memory.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm_kernels import operators, reference
from fastgradnorm_kernels.shapes import Float

# Numbers of a sample from which on calls of its own are faster.
_LARGE = 1 << 13


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
    # Numbers of bfloat16 are taken as they are, and added up in float32.
    dtype = torch.bfloat16 if x.dtype == g.dtype == torch.bfloat16 else wide
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    format = torch.channels_last if last else torch.contiguous_format
    statistics, found = (mean.to(wide), var.to(wide), eps), list[Tensor]()
    samples = _alone(x.to(dtype), format)
    for cotangents in g.unbind(1):
        for one, each in zip(samples, _alone(cotangents.to(dtype), format), strict=True):
            found += operators.batch_norm_gradients(each, one, *statistics)
    sums = torch.stack(found).view(g.shape[1], len(x), 2, -1)
    return sums.square_().sum(-1).transpose(0, 1)


def _alone(samples: Tensor, format: torch.memory_format) -> tuple[Tensor, ...]:
    """Batches of one, of equal strides for equal shapes.

    PyTorch reads the layout of each from all strides, that of a dimension of one included, and
    gives other numbers, in silence, where it reads two.
    """
    samples = samples.contiguous(memory_format=format)
    each = samples[0].numel()
    shape, steps = samples.shape, (each, each, *samples.stride()[1:])
    return samples.as_strided((len(samples), 1, *shape[1:]), steps).unbind()


def normalized_rows(
    x: Tensor, g: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Float[Tensor, "N T C"], Float[Tensor, "N K T C"]]:
    """Normalised inputs and gradients, by position."""
    x_hat = F.batch_norm(x, mean, var, None, None, False, 0.0, eps)
    if x.dim() == 2:
        return x_hat[:, None], g[:, :, None]
    return x_hat.flatten(2).mT, g.flatten(3).mT
