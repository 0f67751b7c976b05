"""Weight gradients on processors, squared, where products take transposed factors as they lie.

Activations and output gradients have their positions first in memory, so that `aᵀ g` is one call of
MKL and nothing is laid out anew. Of a convolution less than its patches is copied: along the first
dimension of space the window moves on by rows of the same copy, and what one row of the kernel sees
at all positions is a matrix in it. Elsewhere than on Intel's processors another library is faster
(see `_matmul`), for which `reference` lays its factors out.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fastgradnorm_kernels import _matmul, reference
from fastgradnorm_kernels._sample_groups import grouped_sq_norm, is_grouped
from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.patches import are_left_out
from fastgradnorm_kernels.shapes import Float

# Multiplications of a sample and cotangent, and elements of a sample's patches, from which on each
# is a product of its own.
_OWN_CALL, _OWN_WINDOWS = 1 << 18, 1 << 16
# Channels from which on rows of a sequence are long enough not to be put side by side.
_CHANNELS = 16


def direct_sq_norm(a: Float[Tensor, "N T I"], g: Float[Tensor, "N K T O"]) -> Float[Tensor, "N K"]:
    """`reference.direct_sq_norm`."""
    n, _, t, o = g.shape
    plain = a.dtype == g.dtype == torch.float32
    if n == 0 or not plain or t * o * a.shape[-1] < _OWN_CALL or not _matmul.has_fast_mkl():
        return reference.direct_sq_norm(a, g)
    pairs = zip(a, g, strict=True)
    found = [_square(torch.mm(a_i.mT, each)) for a_i, g_i in pairs for each in g_i]
    return torch.stack(found).view(g.shape[:2])


def direct_conv_sq_norm(
    x: Float[Tensor, "N C *space"], g: Float[Tensor, "N K O *out"], geometry: Geometry
) -> Float[Tensor, "N K"]:
    """`reference.direct_conv_sq_norm` of one group."""
    plain = x.dtype == g.dtype == torch.float32 and len(g) > 0
    if plain and _matmul.has_fast_mkl() and not are_left_out(x, g, geometry):
        if x.dim() == 3 and x.shape[1] >= _CHANNELS:
            return _of_sequences(x, g, geometry)
        if x[0].numel() * math.prod(geometry.kernel_size) >= _OWN_WINDOWS and x.dim() > 3:
            return _of_images(x, g, geometry)
    if is_grouped(x, g):
        return grouped_sq_norm(x, g, geometry)
    return reference.direct_conv_sq_norm(x, g, *geometry, 1)


def _square(x: Tensor) -> Tensor:
    flat = x.view(-1)
    return torch.dot(flat, flat)


def _of_sequences(
    x: Float[Tensor, "N C S"], g: Float[Tensor, "N K O T"], geometry: Geometry
) -> Float[Tensor, "N K"]:
    """Channels that are first in memory: what one place of the kernel sees is a slice of them."""
    n, k, o, t = g.shape
    (kernel,), (stride,), (padding,), (dilation,) = geometry
    rows, total = g.reshape(n, k * o, t), g.new_zeros(n, k)
    for start in range(-padding, dilation * kernel - padding, dilation):
        # Positions at which this place is not in the padding, which adds nothing.
        first, last = max(0, -(start // stride)), min(t - 1, (x.shape[-1] - 1 - start) // stride)
        if first <= last:
            seen = x[:, :, start + stride * first : start + stride * last + 1 : stride]
            products = torch.bmm(rows[:, :, first : last + 1], seen.mT)
            total += products.view(n, k, -1).square().sum(-1)
    return total


def _of_images(
    x: Float[Tensor, "N C *space"], g: Float[Tensor, "N K O *out"], geometry: Geometry
) -> Float[Tensor, "N K"]:
    """Sample by sample, in memory that is used again: little is called beside the products."""
    windows, found = _Windows(x, g.shape[3:], geometry), list[Tensor]()
    rows = g.flatten(3).mT[:, :, None]  # [N, K, 1, T, O]
    parts = [(part, rows.expand(-1, -1, len(part), -1, -1)) for part in windows.parts]
    made = [x.new_empty(*part.shape[:2], g.shape[2]) for part in windows.parts]
    flat = [each.view(-1) for each in made]
    for sample, *each_part in zip(x.movedim(1, -1), *(each for _, each in parts), strict=True):
        windows.fill(sample)
        for each in zip(*each_part, strict=True):
            for (part, _), cotangent, into in zip(parts, each, made, strict=True):
                torch.bmm(part, cotangent, out=into)
            found += [torch.dot(gradient, gradient) for gradient in flat]
    return torch.stack(found).view(*g.shape[:2], -1).sum(-1)


class _Windows:
    """What a convolution sees of one sample at a time, in memory that is used again.

    Rows of the first dimension of space are in the order of what the stride leaves of them.

    Attributes:
        parts: `[places, inputs, T]`, the places of the kernel's first dimension in parts whose
            matrices are equally far apart in memory.
    """

    def __init__(self, x: Tensor, out: tuple[int, ...], geometry: Geometry) -> None:
        space, channels, dims = x.shape[2:], x.shape[1], len(out)
        kernel, stride, padding, dilation = geometry
        rows = -(-((kernel[0] - 1) * dilation[0] + (out[0] - 1) * stride[0] + 1) // stride[0])
        sizes = [size + 2 * pad for size, pad in zip(space, padding, strict=True)]
        sizes[0] = max(sizes[0], rows * stride[0])
        padded = x.new_zeros(*sizes, channels)
        steps = padded.stride()
        more = range(1, dims)
        self._seen = padded.as_strided(
            (stride[0], rows, *out[1:], *kernel[1:], channels),
            (
                *(steps[0], steps[0] * stride[0]),
                *(steps[i] * stride[i] for i in more),
                *(steps[i] * dilation[i] for i in more),
                1,
            ),
        )
        for dim, (size, pad) in enumerate(zip(space, padding, strict=True)):
            padded = padded.narrow(dim, pad, size)
        self._inside = padded
        self._copy = x.new_empty(self._seen.shape)
        self.parts = [*self._parts(out, geometry, rows)]

    def _parts(self, out: tuple[int, ...], geometry: Geometry, rows: int) -> Iterator[Tensor]:
        (places, *_), (stride, *_), _, (dilation, *_) = geometry
        channels = self._copy.shape[-1]
        inputs, positions = channels * math.prod(geometry.kernel_size[1:]), math.prod(out)
        row = inputs * math.prod(out[1:])
        apart = stride // math.gcd(stride, dilation)  # places between those of one remainder
        for first in range(min(apart, places)):
            start = first * dilation
            count = len(range(first, places, apart))
            yield self._copy.as_strided(
                (count, inputs, positions),
                (apart * dilation // stride * row, 1, inputs),
                (start % stride * rows + start // stride) * row,
            )

    def fill(self, sample: Float[Tensor, "..."]) -> None:
        """With a sample `[*space, C]`."""
        self._inside.copy_(sample)
        self._copy.copy_(self._seen)
