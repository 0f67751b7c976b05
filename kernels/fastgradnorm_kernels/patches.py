"""What each position of a convolution sees: strided views of the input, copied into memory."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.shapes import Float

# Elements of several samples' patches that stay in the cache; and up to which a sample's are put
# into memory.
_BLOCK, _MOST = 1 << 20, 1 << 22
# Numbers of a weight up to which, and positions from which on, oneDNN's own gradient is faster than
# patches, for one cotangent and channels last: 0.7 to 1.0 times the time from 32x32 on.
_SHORT, _MANY_POSITIONS = 1 << 18, 1 << 10
# Outputs of a group from which on it is copied in less time as they lie.
_RUN = 16


def conv_patches(
    x: Float[Tensor, "N C *space"],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Float[Tensor, "N CI T"]:
    """What each of a convolution's T output positions sees: `C × kernel` values."""
    n, c, *space = x.shape
    if all(k == 1 for k in kernel_size) and set(stride) == {1} and set(padding) == {0}:
        return x.reshape(n, c, math.prod(space))
    # Strided views copied: five times as fast as `F.unfold` on the CPU.
    views = seen(padded(x, padding), kernel_size, stride, dilation)
    return views.reshape(n, c * math.prod(kernel_size), math.prod(views.shape[2 + len(space) :]))


def seen(
    x: Float[Tensor, "N C *space"],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Float[Tensor, "N C *kernel_out"]:
    """The patches as a view of inputs that are padded already."""
    steps = x.stride()[2:]
    extent = Geometry(kernel_size, stride, (0,) * len(steps), dilation).out(x.shape[2:])
    return x.as_strided(
        (*x.shape[:2], *kernel_size, *extent),
        (
            *x.stride()[:2],
            *(d * step for d, step in zip(dilation, steps, strict=True)),
            *(s * step for s, step in zip(stride, steps, strict=True)),
        ),
    )


def grouped(
    x: Float[Tensor, "N C *space"],
    grad_outputs: Float[Tensor, "N K O *out"],
    geometry: Geometry,
    groups: int,
) -> tuple[Float[Tensor, "NG T I"], Float[Tensor, "NG K T OG"]]:
    """Patches and gradients with the groups of each sample as samples of their own."""
    n, k, o, *out = grad_outputs.shape
    t = math.prod(out)
    patches = conv_patches(x, *geometry)  # [N, C*I, T]
    inputs = patches.shape[1] // groups
    if grad_outputs.stride(2) == 1 and o >= _RUN * groups:  # channels last, copied group by group
        rows = grad_outputs.movedim(2, -1).reshape(n, k, t, groups, o // groups)
        rows = rows.movedim(3, 1).reshape(n * groups, k, t, o // groups)
        return patches.reshape(n * groups, inputs, t).mT, rows
    rows = grad_outputs.reshape(n, k, groups, o // groups, t).transpose(1, 2)
    rows = rows.reshape(n * groups, k, o // groups, t).mT
    return patches.reshape(n * groups, inputs, t).mT, rows


def padded(x: Float[Tensor, "N C *space"], padding: tuple[int, ...]) -> Tensor:
    """With zeros before and after each dimension of space, and the positions last in memory."""
    pads = [p for pad in reversed(padding) for p in (pad, pad)]
    return F.pad(x.contiguous(), pads) if any(pads) else x.contiguous()


def sample_blocks(tensor: Tensor, patches: int) -> tuple[Tensor, ...]:
    """Samples `[N, ...]` in parts whose patches, so many elements each, stay in the cache."""
    return torch.split(tensor, max(1, _BLOCK // max(1, patches)))


def are_left_out(
    x: Float[Tensor, "N C *space"], g: Float[Tensor, "N K O *out"], geometry: Geometry
) -> bool:
    """Whether PyTorch's own weight gradient is better: faster than patches, or these too many."""
    _, k, o, *out = g.shape
    inputs, t = x.shape[1] * math.prod(geometry.kernel_size), math.prod(out)
    last = k == 1 and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    short = last and t >= _MANY_POSITIONS and inputs * o <= _SHORT
    return short or (len(out) == 2 and inputs * t > _MOST)
