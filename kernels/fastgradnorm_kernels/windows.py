"""Where the inputs of each position are in memory, so that a product can load them as vectors.

A convolution's input is copied once with its channels last, each group's filled up to whole
vectors, and with its padding: `a[t, i]` is then found at `start(t) + step(i)` with no condition,
and the channels of one kernel position are neighbours. The input is K times smaller than the
gradients, which are read as they lie. A linear layer is a convolution with a single kernel
position, whose input has this form already.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels._addresses import NOT_SPECIALISED
from fastgradnorm_kernels._launch import LAUNCH
from fastgradnorm_kernels.geometry import padded_sizes
from fastgradnorm_kernels.shapes import Float

_BLOCKS = {"BLOCK_P": 64, "BLOCK_C": 32, "num_warps": 4}


class Windows(NamedTuple):
    """Activations `[N, groups, T, I]` that are read from `x`, each where it is.

    Attributes:
        x: The memory; samples are `x.stride(0)` elements apart.
        positions: T, the number of positions.
        inputs: I of one group: kernel positions times `channels`.
        groups: Number of groups.
        channels: Neighbours in memory at one kernel position.
        vector: All steps below are multiples of it.
        group_step: Elements from one group to the next.
        numbers: Sizes of the output's and of the kernel's two last dimensions, then the elements
            from one output position to the next and from one kernel position to the next, in each
            of three dimensions.
        flat: Whether nothing is along the first of three dimensions.
    """

    x: Tensor
    positions: int
    inputs: int
    groups: int
    channels: int
    vector: int
    group_step: int
    numbers: dict[str, int]
    flat: bool

    @property
    def plain(self) -> bool:
        """Whether there is a single kernel position and the positions follow each other."""
        return not self.numbers

    def arguments(self) -> dict[str, Any]:
        """As the kernels take them."""
        names = ("OUT_Y", "OUT_X", "KERNEL_Y", "KERNEL_X")
        steps = tuple(f"{of}_step_{dim}" for of in ("t", "i") for dim in "zyx")
        numbers = dict.fromkeys(names, 1) | dict.fromkeys(steps, 0) | {"t_step_x": self.channels}
        return {
            "channels": self.channels,
            "x_stride_n": self.x.stride(0),
            "x_stride_group": self.group_step,
            **(numbers | self.numbers),
            "PLAIN": self.plain,
            "VECTOR_X": self.vector,
        }


def vector(size: int, itemsize: int) -> int:
    """Elements of the longest vector, of 16 bytes at most, that divides `size` of them."""
    return math.gcd(size, 16 // itemsize) if size else 16 // itemsize


def of_linear(activations: Float[Tensor, "N T I"]) -> Windows:
    """Those of a linear layer, whose activations are dense."""
    _, t, i = activations.shape
    aligned = vector(math.gcd(i, activations.stride(0)), activations.element_size())
    return Windows(activations, t, i, 1, i, aligned, 0, {}, True)


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def _channels_last_kernel(
    x_ptr,  # [N, groups * C, *SPACE], any strides
    out_ptr,  # [N, *PADDED, groups, channels]
    positions,
    C,
    channels,
    SPACE_Z,
    SPACE_Y,
    SPACE_X,
    PADDING_Z,
    PADDING_Y,
    PADDING_X,
    all_channels,
    blocks_p,
    blocks_c,
    x_stride_n,
    x_stride_c,
    x_stride_z,
    x_stride_y,
    x_stride_x,
    C_LAST: tl.constexpr,
    X_LAST: tl.constexpr,
    FLAT: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c = tl.program_id(0) % blocks_c * BLOCK_C + tl.arange(0, BLOCK_C)
    p = tl.program_id(0) // blocks_c % blocks_p * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.cast(tl.program_id(0) // blocks_c // blocks_p, tl.int64)
    x = p % (SPACE_X + 2 * PADDING_X) - PADDING_X
    rest = p // (SPACE_X + 2 * PADDING_X)
    inside = (x >= 0) & (x < SPACE_X)
    places = x if X_LAST else tl.cast(x, tl.int64) * x_stride_x
    if FLAT:
        y = rest - PADDING_Y
    else:
        y = rest % (SPACE_Y + 2 * PADDING_Y) - PADDING_Y
        z = rest // (SPACE_Y + 2 * PADDING_Y) - PADDING_Z
        inside &= (z >= 0) & (z < SPACE_Z)
        places += tl.cast(z, tl.int64) * x_stride_z
    inside &= (y >= 0) & (y < SPACE_Y)
    places += tl.cast(y, tl.int64) * x_stride_y
    channel = c % channels
    held = (c < all_channels) & (channel < C)
    channel_steps = tl.cast(c // channels * C + channel, tl.int64)
    channel_steps = channel_steps if C_LAST else channel_steps * x_stride_c
    source = x_ptr + n * x_stride_n + places[:, None] + channel_steps[None, :]
    values = tl.load(source, mask=inside[:, None] & held[None, :], other=0.0)
    target = out_ptr + n * positions * all_channels + p[:, None] * all_channels + c[None, :]
    tl.store(target, values, mask=(p < positions)[:, None] & (c < all_channels)[None, :])


def _padded_channels(channels: int, itemsize: int, sixteens: bool) -> int:
    """Channels of a group in memory: whole vectors; sixteens if asked for or if it adds little."""
    least = 16 if sixteens or channels > 16 else 16 // itemsize
    return -(-channels // least) * least


def _three(options: Sequence[int], fill: int) -> tuple[int, ...]:
    return (fill,) * (3 - len(options)) + tuple(options)


def _channels_last(x: Tensor, padding: Sequence[int], groups: int, channels: int) -> Tensor:
    """A copy `[N, *padded, groups, channels]`, zero in the padding and past a group's channels."""
    n, c = x.shape[:2]
    space, pads = _three(x.shape[2:], 1), _three(padding, 0)
    padded = padded_sizes(space, pads)
    positions, width = math.prod(padded), groups * channels
    if positions * width >= 2**31:
        raise ValueError(
            f"`x` must have fewer than 2³¹ elements a sample, padding and whole vectors of "
            f"channels included, for a Triton kernel. Got {[*x.shape]} with padding "
            f"{[*padding]}. Use backend='torch'."
        )
    out = torch.empty(n, *padded, groups, channels, dtype=x.dtype, device=x.device)
    blocks = triton.cdiv(positions, _BLOCKS["BLOCK_P"]), triton.cdiv(width, _BLOCKS["BLOCK_C"])
    if out.numel():
        strides = (*x.stride()[:2], *_three(x.stride()[2:], 0))
        sizes = (positions, c // groups, channels, *space, *pads, width, *blocks)
        grid = (n * blocks[0] * blocks[1],)
        last = {"C_LAST": strides[1] == 1, "X_LAST": strides[-1] == 1 != strides[1]}
        last["FLAT"] = x.dim() < 5
        _channels_last_kernel[grid](x, out, *sizes, *strides, **last, **_BLOCKS, **LAUNCH)
    return out


def of_convolution(
    x: Float[Tensor, "N C *space"],
    out: Sequence[int],
    options: Sequence[Sequence[int]],
    groups: int,
    sixteens: bool,
) -> Windows:
    """Those of a convolution with kernel size, stride, padding, dilation: `options`.

    With `sixteens` the channels of a group are filled up to a multiple of sixteen, so that products
    can sum over those of one kernel position at a time.
    """
    kernel, stride, padding, dilation = options
    channels = _padded_channels(x.shape[1] // groups, x.element_size(), sixteens)
    copy = _channels_last(x, padding, groups, channels)
    numbers: dict[str, int] = dict(zip(("OUT_Y", "OUT_X"), _three(out, 1)[1:], strict=True))
    numbers |= dict(zip(("KERNEL_Y", "KERNEL_X"), _three(kernel, 1)[1:], strict=True))
    for of, steps in (("t", _three(stride, 1)), ("i", _three(dilation, 1))):
        for dim, step, place in zip("zyx", steps, copy.stride()[1:4], strict=True):
            numbers[f"{of}_step_{dim}"] = step * place
    inputs = math.prod(kernel) * channels
    aligned = vector(channels, x.element_size())
    t, flat = math.prod(out), len(kernel) < 3
    return Windows(copy, t, inputs, groups, channels, aligned, channels, numbers, flat)
