"""Weight gradients on processors, squared, where products take transposed factors as they lie.

Activations and output gradients have their positions first in memory, so that `aᵀ g` is one call of
MKL and nothing is laid out anew. Of a convolution less than its patches is copied: along the first
dimension of space the window moves on by rows of the same copy, and what one row of the kernel sees
at all positions is a matrix in it. Elsewhere than on Intel's processors another library is faster
(see `_matmul`), for which `reference` lays its factors out.

MKL makes a product of fewer than 16 columns at a fifteenth of its rate, and one of as few rows at
half of it or more: the narrower factor gives the rows.
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
from fastgradnorm_kernels.squares import sum_of_squares

# Numbers of the gradients of one cotangent from which on a call for each takes less than laying
# them out anew, and elements of a sample's patches from which on these are not copied.
_WORTH, _OWN_WINDOWS = 1 << 13, 1 << 16
# Numbers of several samples' weight gradients that stay in the cache; and of one from which on it
# is a product of its own, squared while it is in there.
_BLOCK, _OWN_CALL = 1 << 19, 1 << 14
# Columns below which a product is slow. Rows up to which those of all cotangents are put together,
# and inputs from which on the copy that it may take is little beside the product.
_NARROW, _FEW, _PAYS = 16, 8, 32
# Channels from which on rows of a sequence are long enough not to be put side by side.
_CHANNELS = 16


def direct_sq_norm(a: Float[Tensor, "N T I"], g: Float[Tensor, "N K T O"]) -> Float[Tensor, "N K"]:
    """`reference.direct_sq_norm`."""
    n, k, t, o = g.shape
    plain = a.dtype == g.dtype == torch.float32 and n > 0
    if not plain or n * t * o < _WORTH or not _matmul.has_fast_mkl():
        return reference.direct_sq_norm(a, g)
    inputs = a.shape[-1]
    block = max(1, _BLOCK // (k * o * inputs))
    last = g.stride(2) == 1 and inputs >= _NARROW  # the positions, as convolutions have them
    if k > 1 and (last or (o <= _FEW and inputs >= _PAYS)):
        rows = zip(a.split(block), g.mT.flatten(1, 2).split(block), strict=True)
        return torch.cat([sum_of_squares(torch.bmm(y, x).view(len(x), k, -1)) for x, y in rows])
    if o * inputs >= _OWN_CALL:
        each = ((x, y) for x, rows in zip(a, g, strict=True) for y in rows)
        if o < _NARROW:
            return torch.stack([_square(torch.mm(y.mT, x)) for x, y in each]).view(n, k)
        return torch.stack([_square(torch.mm(x.mT, y)) for x, y in each]).view(n, k)
    pairs = zip(a.split(block), g.split(block), strict=True)
    return torch.cat([_in_fewer_calls(x, y) for x, y in pairs])


def _in_fewer_calls(a: Float[Tensor, "N T I"], g: Float[Tensor, "N K T O"]) -> Float[Tensor, "N K"]:
    """One a sample, of all its cotangents, or one a cotangent, of all samples."""
    n, k = g.shape[:2]
    if n < k:
        pairs = zip(a, g, strict=True)
        return sum_of_squares(torch.stack([_turned(x.expand(k, -1, -1), y) for x, y in pairs]))
    return sum_of_squares(torch.stack([_turned(a, y) for y in g.unbind(1)])).mT


def _turned(a: Float[Tensor, "B T I"], g: Float[Tensor, "B T O"]) -> Float[Tensor, "B OI"]:
    """The numbers of `aᵀ g`, of which the narrower factor gives the rows."""
    narrow = a.shape[-1] < min(g.shape[-1], 2 * _NARROW)
    return (torch.bmm(a.mT, g) if narrow else torch.bmm(g.mT, a)).flatten(1)


def _square(x: Tensor) -> Tensor:
    flat = x.view(-1)
    return torch.dot(flat, flat)


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
    columns = g.flatten(3).mT
    n, k, _, o = columns.shape
    places, inputs = geometry.kernel_size[0], windows.parts[0].shape[1]
    together = k > 1 and o < 2 * _NARROW <= 2 * inputs and columns.stride(2) == 1
    if together and k * o * inputs * places <= _BLOCK:
        return _of_all_cotangents(x, columns, windows)
    turned = o < _NARROW <= inputs  # the narrower factor gives the rows
    shape = (o, inputs) if turned else (inputs, o)
    columns = columns[:, :, None]
    parts = [(part, columns.expand(-1, -1, len(part), -1, -1)) for part in windows.parts]
    made = [part.new_empty(len(part), *shape) for part, _ in parts]
    flat = [each.view(-1) for each in made]
    for sample, *each_part in zip(x.movedim(1, -1), *(each for _, each in parts), strict=True):
        windows.fill(sample)
        for each in zip(*each_part, strict=True):
            for (part, _), cotangent, into in zip(parts, each, made, strict=True):
                factors = (cotangent.mT, part.mT) if turned else (part, cotangent)
                torch.bmm(*factors, out=into)
            found += [torch.dot(gradient, gradient) for gradient in flat]
    return torch.stack(found).view(n, k, -1).sum(-1)


def _of_all_cotangents(
    x: Float[Tensor, "N C *space"], columns: Float[Tensor, "N K T O"], windows: "_Windows"
) -> Float[Tensor, "N K"]:
    """The same, with the few outputs of all cotangents in the rows of one product."""
    found, k = list[Tensor](), columns.shape[1]
    for sample, rows in zip(x.movedim(1, -1), columns.mT.flatten(1, 2), strict=True):
        windows.fill(sample)
        each = [torch.bmm(rows.expand(len(part), -1, -1), part.mT) for part in windows.parts]
        squares = [sum_of_squares(made.view(len(made), k, -1)).sum(0) for made in each]
        found.append(squares[0] if len(squares) == 1 else torch.stack(squares).sum(0))
    return torch.stack(found)


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
