"""Where the inputs of each position are: the copy of a convolution's input, and its steps."""

import itertools

import pytest
import torch
from fastgradnorm_kernels import conv_patches, windows
from torch.nn import functional as F

from tests.support.kernel_support import DEVICE, far_apart, guarded, randn, scattered

# channels, groups, input size, (kernel, stride, padding, dilation)
CASES = [
    pytest.param(3, 1, (7, 6), ((3, 3), (1, 1), (1, 1), (1, 1)), id="2d"),
    pytest.param(6, 2, (9, 8), ((3, 2), (2, 1), (1, 0), (2, 3)), id="every-option"),
    pytest.param(5, 5, (6, 5), ((3, 3), (1, 1), (1, 2), (1, 1)), id="depthwise"),
    pytest.param(20, 1, (5, 5), ((1, 1), (2, 2), (0, 0), (1, 1)), id="pointwise"),
    pytest.param(36, 2, (19,), ((5,), (2,), (2,), (1,)), id="1d"),
    pytest.param(6, 3, (4, 5, 3), ((2, 3, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)), id="3d"),
]
LAYOUTS = {
    "plain": guarded,
    "scattered": scattered,
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
}


def _out(size, kernel, stride, padding, dilation):
    return [
        (s + 2 * p - d * (k - 1) - 1) // step + 1
        for s, k, step, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]


def _gathered(found, kernel, out):
    """`a[n, group, t, i]`, read from the memory at the addresses that the kernels form."""
    n, width, m = len(found.x), found.channels, found.numbers
    kernel, out = (3 - len(kernel)) * (1,) + tuple(kernel), (3 - len(out)) * [1] + list(out)
    starts, steps = (
        torch.tensor(
            [
                sum(place * m[f"{of}_step_{dim}"] for place, dim in zip(at, "zyx", strict=True))
                for at in itertools.product(*map(range, sizes))
            ]
        )
        for of, sizes in (("t", out), ("i", kernel))
    )
    inner = (steps[:, None] + torch.arange(width)).flatten()
    places = starts[:, None] + inner
    groups = torch.arange(found.groups)[:, None, None] * found.group_step
    memory = found.x.reshape(n, -1).cpu()
    values = memory[:, (groups + places).flatten()]
    return values.view(n, found.groups, len(starts), len(steps), width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("channels, groups, size, geometry", CASES)
@pytest.mark.parametrize("sixteens", [True, False])
def test_of_convolution(channels, groups, size, geometry, layout, dtype, sixteens):
    x = randn(2, channels, *size, dtype=dtype)
    out = _out(size, *geometry)
    found = windows.of_convolution(layout(x), out, geometry, groups, sixteens)
    own = channels // groups
    assert (found.groups, found.positions) == (groups, torch.Size(out).numel())
    assert found.channels % (16 if sixteens else 16 // dtype.itemsize) == 0
    assert own <= found.channels < own + 16
    assert found.vector == 16 // dtype.itemsize
    actual = _gathered(found, geometry[0], out)
    patches = conv_patches(x.cpu(), *geometry).view(2, groups, own, -1, found.positions)
    assert torch.equal(actual[..., :own], patches.permute(0, 1, 4, 3, 2))
    assert (actual[..., own:] == 0).all()


def test_no_channels_and_no_samples():
    options = ((3,), (1,), (1,), (1,))
    assert windows.of_convolution(randn(2, 0, 4), [4], options, 1, False).inputs == 0
    assert len(windows.of_convolution(randn(0, 3, 4), [4], options, 1, True).x) == 0


def test_beyond_32_bits():
    x = randn(3, 2, 3, dtype=torch.float16)
    options = ((3,), (1,), (1,), (1,))
    near, far = (windows.of_convolution(v, [3], options, 1, False).x for v in (x, far_apart(x)))
    assert torch.equal(near, far)


def test_a_copy_that_32_bits_do_not_reach_is_an_error():
    x = torch.empty(1, 1, 2**14, 2**14, device="meta")
    options = ((1, 1), (1, 1), (0, 0), (1, 1))
    with pytest.raises(ValueError, match="`x` must have fewer than 2³¹ elements a sample, padding"):
        windows.of_convolution(x, [2**14, 2**14], options, 1, True)


@pytest.mark.parametrize(
    "a, vector",
    [
        (torch.empty(2, 3, 8), 4),
        (torch.empty(2, 3, 8).half(), 8),
        (torch.empty(2, 3, 6), 2),
        (torch.empty(2, 25, device=DEVICE)[:, 1:].view(2, 3, 8), 1),  # a copy would lie together
    ],
    ids=["float32", "float16", "six", "odd samples"],
)
def test_of_linear(a, vector):
    found = windows.of_linear(a.to(DEVICE))
    assert found.vector == vector
    assert (found.positions, found.inputs, found.plain) == (3, a.shape[2], True)


def test_padding_is_that_of_the_convolution():
    x = randn(1, 4, 3, 5)
    options = ((3, 3), (1, 1), (2, 1), (1, 1))
    copy = windows.of_convolution(x, [5, 5], options, 1, False).x
    assert torch.equal(copy[0, 0, :, :, 0], F.pad(x, (1, 1, 2, 2))[0].permute(1, 2, 0))
