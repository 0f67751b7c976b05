"""Weight gradients of a convolution, of all samples in one call whose groups the samples are.

oneDNN's own weight gradient adds samples up. Samples side by side as groups of one large
convolution are kept apart by it, in one call, and no patch is copied: of a volume 27 of them stand
for each voxel, and copying takes four times as long as the products. Where the channels are few it
fills its registers with nothing, and where they are many patches pay.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import grad

from fastgradnorm_kernels._matmul import prefers_onednn
from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.shapes import Float
from fastgradnorm_kernels.squares import sum_of_squares

# From times of 40 shapes of 1 and 10 cotangents, on one core of an AMD EPYC. Channels, of inputs or
# outputs, below which a call computes mostly padding; of images and sequences channels from which
# on patches are faster, also where the channels are last in memory, so that both are copied.
_FEW, _MANY, _MANY_LAST = 16, 96, 64
# Positions from which on, with the channels last, PyTorch's gradient of each sample alone is
# faster.
_LARGE = 1 << 10
# Numbers of several samples' gradients that stay in the cache.
_BLOCK = 1 << 20

_GRADIENTS: tuple[Callable[..., Tensor], ...]
_GRADIENTS = (grad.conv1d_weight, grad.conv2d_weight, grad.conv3d_weight)


def is_grouped(x: Float[Tensor, "N C *space"], g: Float[Tensor, "N K O *out"]) -> bool:
    """Whether `grouped_sq_norm` is the fastest form of forming the gradients."""
    channels, outputs, dims = x.shape[1], g.shape[2], x.dim() - 2
    plain = x.dtype == g.dtype == torch.float32 and x.device.type == "cpu"
    if not plain or len(x) == 0 or min(channels, outputs) < _FEW or not prefers_onednn():
        return False
    if dims == 3:
        return True
    if g.shape[1] > 1:  # whose outputs are so many rows of one product
        return False
    widest = max(channels, outputs)
    if dims == 2 and not x.is_contiguous():
        return widest <= _MANY_LAST and g[0, 0, 0].numel() < _LARGE
    return widest <= _MANY


def grouped_sq_norm(
    x: Float[Tensor, "N C *space"], g: Float[Tensor, "N K O *out"], geometry: Geometry
) -> Float[Tensor, "N K"]:
    """`reference.direct_conv_sq_norm` of one group."""
    _, k, o, *out = g.shape
    channels, *space = x.shape[1:]
    weight_grad = _GRADIENTS[len(out) - 1]
    kernel, *options = geometry
    block = max(1, _BLOCK // (o * channels * torch.Size(kernel).numel()))
    found = list[Tensor]()
    for some, cotangents in zip(x.split(block), g.split(block), strict=True):
        groups = len(some)
        side_by_side = some.reshape(1, groups * channels, *space)
        shape = groups * o, channels, *kernel
        for j in range(k):
            rows = cotangents[:, j].reshape(1, groups * o, *out)
            weights = weight_grad(side_by_side, shape, rows, *options, groups)
            found.append(sum_of_squares(weights.view(groups, -1)))
    blocks = range(0, len(found), k)
    return torch.cat([torch.stack(found[i : i + k], 1) for i in blocks])
