"""Weight norms of depthwise convolutions on processors, in the form with swapped roles."""

import pytest
import torch
from fastgradnorm_kernels import _depthwise, _torch_norms
from fastgradnorm_kernels.geometry import Geometry

from tests.support.asserts import assert_close_relative
from tests.support.kernel_support import conv_oracle

# channels, outputs a channel, input size, (kernel, stride, padding, dilation)
CASES = [
    pytest.param(6, 1, (9, 8), ((5, 5), (1, 1), (2, 2), (1, 1)), id="5x5"),
    pytest.param(4, 1, (16, 15), ((7, 7), (1, 1), (3, 3), (1, 1)), id="7x7"),
    pytest.param(4, 2, (9, 12), ((5, 3), (2, 3), (2, 0), (1, 2)), id="two outputs each"),
    pytest.param(5, 1, (8, 8), ((3, 3), (2, 2), (1, 1), (1, 1)), id="last pixels are skipped"),
    pytest.param(3, 1, (10, 11), ((3, 3), (1, 1), (4, 4), (2, 3)), id="wide padding"),
    pytest.param(5, 1, (40,), ((9,), (1,), (4,), (1,)), id="1d"),
    pytest.param(4, 3, (31,), ((4,), (2,), (3,), (3,)), id="1d, every option"),
    pytest.param(4, 1, (5, 6, 7), ((3, 3, 3), (1, 2, 1), (1, 1, 0), (1, 1, 2)), id="3d"),
    pytest.param(3, 1, (1, 1), ((7, 7), (1, 1), (3, 3), (1, 1)), id="one pixel"),
]


def _pair(channels, each, size, geometry, dtype=torch.float32, N=3, K=2):
    out = Geometry(*geometry).out(size)
    x = torch.randn(N, channels, *size, dtype=dtype) + 0.5
    return x, torch.randn(N, K, channels * each, *out, dtype=dtype) + 0.5


@pytest.mark.parametrize("last", [False, True], ids=["plain", "channels last"])
@pytest.mark.parametrize("channels, each, size, geometry", CASES)
def test_swapped_form(channels, each, size, geometry, last):
    x, g = _pair(channels, each, size, geometry)
    exact = conv_oracle(x, g, geometry, channels)
    if last:
        x, g = x.movedim(1, -1).contiguous().movedim(-1, 1), g.movedim(2, -1).contiguous()
        g = g.movedim(-1, 2)
    found = _depthwise.depthwise_sq_norm(x, g, Geometry(*geometry))
    assert_close_relative(found, exact, 1e-5)
    assert_close_relative(
        _torch_norms.conv_sq_norm(x, g, Geometry(*geometry), channels), exact, 1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_numbers_are_summed_in_wide_ones(dtype):
    geometry = ((5, 5), (1, 1), (2, 2), (1, 1))
    x, g = _pair(4, 1, (12, 12), geometry, dtype)
    exact = conv_oracle(x.float(), g.float(), geometry, 4)
    found = _torch_norms.conv_sq_norm(x, g, Geometry(*geometry), 4)
    assert_close_relative(found, exact, 1e-5)


@pytest.mark.parametrize(
    "shape, out, kernel, groups, dtype, expected",
    [
        ((2, 8, 56, 56), (56, 56), (7, 7), 8, torch.float32, True),
        ((2, 8, 112, 112), (112, 112), (3, 3), 8, torch.float32, False),
        ((2, 8, 14, 14), (14, 14), (3, 3), 8, torch.float32, True),
        ((2, 8, 14, 14), (14, 14), (3, 3), 4, torch.float32, False),
        ((2, 1, 14, 14), (14, 14), (3, 3), 1, torch.float32, False),
        ((2, 8, 56, 56), (56, 56), (7, 7), 8, torch.float64, False),
        ((2, 8, 200), (200,), (31,), 8, torch.float32, False),
        ((2, 8, 200), (200,), (7,), 8, torch.float32, True),
    ],
)
def test_where_it_is_used(shape, out, kernel, groups, dtype, expected, monkeypatch):
    ones = (1,) * len(kernel)
    geometry = Geometry(kernel, ones, tuple(k // 2 for k in kernel), ones)
    used = []
    whole = _torch_norms.depthwise_sq_norm
    monkeypatch.setattr(
        _torch_norms, "depthwise_sq_norm", lambda *args: used.append(1) or whole(*args)
    )
    x, g = torch.randn(*shape, dtype=dtype), torch.randn(2, 1, 8, *out, dtype=dtype)
    _torch_norms.conv_sq_norm(x, g, geometry, groups)
    assert bool(used) == expected
