r"""A float32 number as two of half precision, `x = (high + low) / scale`, to within `2^-24 x`.

Half precision has 11 bits, and two of them the 24 of float32, where a power of two has brought the
numbers to its middle: `scale` is one for each row, by its largest number. What is smaller than
`2^-18` of that is known to within `2^-40` of it, not of itself. Which numbers of a row are large
is a matter of what they are multiplied by: `balance` gives each channel the size of its weights.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels._addresses import aligned
from fastgradnorm_kernels._launch import LAUNCH
from fastgradnorm_kernels.shapes import Float
from fastgradnorm_kernels.windows import vector

_BLOCK = 4096
_AT_ONCE = tl.constexpr(64)  # blocks
# The largest number of a row becomes one of [2^14, 2^15); half precision ends at 2^16.
_EXPONENT = 14


class HalfParts(NamedTuple):
    """Numbers `[R, P, C]`, float32, as `(high + low) * inverse[r]`.

    Attributes:
        high: `[R, P, C]`, float16.
        low: What that leaves, alike.
        inverse: `[R]`, powers of two, float32; NaN where the row has a number that is not finite.
    """

    high: Tensor
    low: Tensor
    inverse: Tensor


@triton.jit
def _channel(place, channels, VECTOR: tl.constexpr):
    return tl.max_contiguous(tl.multiple_of(place % channels, VECTOR), VECTOR)


@triton.jit(do_not_specialize=["size", "channels", "blocks"])
def _largest_kernel(
    x_ptr,  # [R, size]
    balance_ptr,  # [channels]
    largest_ptr,  # [R, blocks], int32: bits of the largest, in which NaN is above infinity
    size,
    channels,
    blocks,
    VECTOR: tl.constexpr,
    BALANCED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.cast(tl.program_id(0) // blocks, tl.int64)
    place = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    size = aligned(size, VECTOR)
    x = tl.load(x_ptr + row * size + place, mask=place < size, other=0.0)
    if BALANCED:
        x *= tl.load(balance_ptr + _channel(place, channels, VECTOR))
    bits = tl.abs(x).to(tl.int32, bitcast=True)
    tl.store(largest_ptr + tl.program_id(0), tl.max(bits, 0))


@triton.jit(do_not_specialize=["size", "channels", "blocks"])
def _split_kernel(
    x_ptr,  # [R, size]
    balance_ptr,  # [channels]
    largest_ptr,  # [R, blocks], int32
    high_ptr,  # [R, size]
    low_ptr,  # [R, size]
    inverse_ptr,  # [R]
    size,
    channels,
    blocks,
    VECTOR: tl.constexpr,
    BALANCED: tl.constexpr,
    EXPONENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.cast(tl.program_id(0) // blocks, tl.int64)
    block = tl.program_id(0) % blocks
    size = aligned(size, VECTOR)
    place = block * BLOCK + tl.arange(0, BLOCK)
    found = tl.zeros([_AT_ONCE], tl.int32)
    for start in range(0, blocks, _AT_ONCE):
        other = start + tl.arange(0, _AT_ONCE)
        found = tl.maximum(
            found, tl.load(largest_ptr + row * blocks + other, mask=other < blocks, other=0)
        )
    bits = tl.max(found, 0)
    # Exponents have a bias of 127: of 2^254 / x, and so of the scale and of its inverse.
    biased = tl.minimum(254 + EXPONENT - (bits >> 23), 253)
    scale = (biased << 23).to(tl.float32, bitcast=True)
    inverse = ((254 - biased) << 23).to(tl.float32, bitcast=True)
    inverse = tl.where((bits >> 23) == 255, float("nan"), inverse)
    if block == 0:
        tl.store(inverse_ptr + row, inverse)
    inside = place < size
    x = tl.load(x_ptr + row * size + place, mask=inside, other=0.0)
    if BALANCED:
        x *= tl.load(balance_ptr + _channel(place, channels, VECTOR))
    x *= scale
    high = x.to(tl.float16)
    tl.store(high_ptr + row * size + place, high, mask=inside)
    tl.store(low_ptr + row * size + place, (x - high.to(tl.float32)).to(tl.float16), mask=inside)


def split(x: Float[Tensor, "R P C"], balance: Float[Tensor, " C"] | None = None) -> HalfParts:
    """The parts of `x * balance`, for dense x and powers of two.

    Args:
        x: float32, contiguous.
        balance: One for each channel, by which its weights are divided.
    """
    rows, positions, channels = x.shape
    size = positions * channels
    high, low = (torch.empty(x.shape, dtype=torch.float16, device=x.device) for _ in range(2))
    inverse = torch.empty(rows, dtype=torch.float32, device=x.device)
    if not x.numel():
        return HalfParts(high, low, inverse.fill_(1.0))
    block = min(_BLOCK, triton.next_power_of_2(size))
    blocks = triton.cdiv(size, block)
    largest = torch.empty(rows, blocks, dtype=torch.int32, device=x.device)
    balanced, factors = balance is not None, x if balance is None else balance
    options = {
        "VECTOR": vector(channels, 4),
        "BALANCED": balanced,
        "BLOCK": block,
        "num_warps": 4 if block > 512 else 1,
        **LAUNCH,
    }
    grid = (rows * blocks,)
    _largest_kernel[grid](x, factors, largest, size, channels, blocks, **options)
    _split_kernel[grid](
        *(x, factors, largest, high, low, inverse, size, channels, blocks),
        EXPONENT=_EXPONENT,
        **options,
    )
    return HalfParts(high, low, inverse)


class Weights(NamedTuple):
    """Weights `[taps, C, O]` as `(high + low) * inverse[o] * balance[c]`.

    Attributes:
        high: `[taps, C, O]`, float16.
        low: What that leaves, alike.
        inverse: `[O]`, powers of two, float32.
        balance: `[C]`, powers of two, float32: the size of each channel's weights, with which what
            they are multiplied by is split.
    """

    high: Tensor
    low: Tensor
    inverse: Tensor
    balance: Tensor


def split_weights(weight: Float[Tensor, "taps C O"]) -> Weights:
    """The parts of a layer's weights, which are few: plain operations, once a layer."""
    weight = weight.float().contiguous()
    balance = _power(weight.abs().amax((0, 2)))
    level = weight / balance[:, None]
    columns = _power(level.abs().amax((0, 1)))
    level = level / columns * 2.0**_EXPONENT
    high = level.half()
    low = (level - high.float()).half()
    return Weights(high, low, columns / 2.0**_EXPONENT, balance)


def _power(largest: Tensor) -> Tensor:
    """The power of two above each number; 1 for zero and what is not finite."""
    _, exponent = torch.frexp(largest)
    power = torch.ldexp(torch.ones_like(largest), exponent.clamp(-100, 100))
    return torch.where((largest > 0) & largest.isfinite(), power, 1.0)
