"""Weight norms of depthwise convolutions on processors, by a convolution with swapped roles.

A channel's weight gradient is `Σ_t g_t x_{s t + d i - p}` at its offset i: a convolution of the
input x with the gradient g as its kernel, whose stride is the dilation d and whose dilation is the
stride s. Samples and channels are the groups of one call. Libraries make that form fast (oneDNN, 49
offsets: 5 to 30 times as fast as its own weight gradient, which works sample by sample).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.shapes import Float

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
# Where the swapped form wins, from times of 24 shapes with 1, 5 and 10 cotangents: images have a
# fast weight gradient for few offsets and many positions, sequences a fast product for many.
_SHORT_KERNEL, _FEW_POSITIONS, _LONG_KERNEL = 5, 256, 16


def is_swapped(x: Tensor, out: Sequence[int], geometry: Geometry, groups: int) -> bool:
    """Whether `depthwise_sq_norm` is the fastest form."""
    if groups == 1 or groups != x.shape[1] or x.dtype == torch.float64:
        return False
    widest = max(geometry.kernel_size)
    if len(out) == 1:
        return widest <= _LONG_KERNEL
    return len(out) == 3 or widest >= _SHORT_KERNEL or math.prod(out) <= _FEW_POSITIONS


def depthwise_sq_norm(
    x: Float[Tensor, "N C *space"], g: Float[Tensor, "N K O *out"], geometry: Geometry
) -> Float[Tensor, "N K"]:
    """`Σ_c ‖Σ_t g_ct x_c(t)‖²`, where each input channel has `O / C` output channels of its own."""
    n, k, o, *out = g.shape
    c, space = x.shape[1], x.shape[2:]
    convolve = _CONVOLUTIONS[len(out) - 1]
    channels = x.reshape(1, n * c, *space)
    kernels = g.reshape(n, k, c, o // c, *out)
    found = g.new_zeros(n, k)
    for j in range(k):
        for m in range(o // c):
            kernel = kernels[:, j, :, m].reshape(n * c, 1, *out)
            weight = convolve(
                channels,
                kernel,
                stride=geometry.dilation,
                padding=geometry.padding,
                dilation=geometry.stride,
                groups=n * c,
            )
            # Where the stride skips the last pixels, there are more offsets than the kernel has.
            for dim, size in enumerate(geometry.kernel_size, 2):
                weight = weight.narrow(dim, 0, size)
            found[:, j] += weight.reshape(n, -1).square().sum(1)
    return found
