import pytest
import torch
from fastgradnorm_kernels import conv_norm, conv_patches, reference
from fastgradnorm_kernels.tiles import Tile

from tests.support.kernel_support import (
    DEVICE,
    assert_within_budget,
    conv_oracle,
    far_apart,
    guarded,
    product_modes,
    randn,
    scattered,
)

pytestmark = pytest.mark.slow

# channels in, out, groups, input size, (kernel, stride, padding, dilation)
CASES = [
    pytest.param(3, 5, 1, (7, 6), ((3, 3), (1, 1), (1, 1), (1, 1)), id="2d"),
    pytest.param(4, 6, 2, (9, 8), ((3, 2), (2, 1), (1, 0), (2, 3)), id="2d-every-option"),
    pytest.param(5, 5, 5, (6, 5), ((3, 3), (1, 1), (1, 1), (1, 1)), id="depthwise"),
    pytest.param(20, 18, 1, (5, 5), ((1, 1), (1, 1), (0, 0), (1, 1)), id="pointwise"),
    pytest.param(3, 4, 1, (19,), ((5,), (2,), (2,), (1,)), id="1d"),
    pytest.param(6, 9, 3, (4, 5, 3), ((2, 3, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)), id="3d"),
    pytest.param(1, 1, 1, (1, 1), ((1, 1), (1, 1), (0, 0), (1, 1)), id="scalar"),
    pytest.param(8, 70, 1, (7, 9), ((3, 3), (1, 1), (1, 1), (1, 1)), id="many-tiles"),
]


def _pair(channels, out, size, geometry, dtype=torch.float32, N=2, K=2):
    extent = [
        (s + 2 * p - d * (k - 1) - 1) // step + 1
        for s, k, step, p, d in zip(size, *geometry, strict=True)
    ]
    x = randn(N, channels, *size, dtype=dtype) + 0.5
    return x, randn(N, K, out, *extent, dtype=dtype) + 0.5


def _reference(x, g, geometry, groups):
    n, k, o = g.shape[:3]
    patches = conv_patches(x.float(), *geometry)
    a = patches.reshape(n * groups, patches.shape[1] // groups, patches.shape[2]).mT
    rows = g.float().reshape(n, k, groups, o // groups, -1).transpose(1, 2)
    rows = rows.reshape(n * groups, k, o // groups, -1).mT
    return [
        form.view(n, groups, k).sum(1)
        for form in (reference.direct_sq_norm(a, rows), *reference.ghost_sq_norm(a, rows))
    ]


@product_modes
@pytest.mark.parametrize("channels, out, groups, size, geometry", CASES)
def test_conv_sq_norm(channels, out, groups, size, geometry, mode):
    x, g = map(guarded, _pair(channels, out, size, geometry, mode.dtype))
    exact, (ref_direct, ref_ghost, ref_scale) = (
        conv_oracle(x, g, geometry, groups),
        _reference(x, g, geometry, groups),
    )
    options = {"input_precision": mode.precision}
    direct = conv_norm.conv_direct_sq_norm(x, g, geometry, groups, **options)
    ghost, scale = conv_norm.conv_ghost_sq_norm(x, g, geometry, groups, **options)
    assert_within_budget(direct, ref_direct, exact, mode.slack)
    assert_within_budget(ghost, ref_ghost, exact, mode.slack)
    assert_within_budget(scale, ref_scale, ref_scale.double().cpu(), 2 * mode.slack)


@product_modes
@pytest.mark.parametrize("channels, out, groups, size, geometry", CASES)
def test_tiles_and_channels_last(channels, out, groups, size, geometry, mode):
    tile = Tile(32, 64, 16, 2, 2)
    x, g = _pair(channels, out, size, geometry, mode.dtype)
    x, g = (guarded(v.movedim(-1 - len(size), -1)).movedim(-1, -1 - len(size)) for v in (x, g))
    exact, (ref_direct, ref_ghost, ref_scale) = (
        conv_oracle(x, g, geometry, groups),
        _reference(x, g, geometry, groups),
    )
    options = {"input_precision": mode.precision, "tile": tile}
    direct = conv_norm.conv_direct_sq_norm(x, g, geometry, groups, **options)
    ghost, scale = conv_norm.conv_ghost_sq_norm(x, g, geometry, groups, **options)
    assert_within_budget(direct, ref_direct, exact, mode.slack)
    assert_within_budget(ghost, ref_ghost, exact, mode.slack)
    assert_within_budget(scale, ref_scale, ref_scale.double().cpu(), 2 * mode.slack)


@pytest.mark.parametrize("channels", [16, 40, 48])
def test_steps_within_a_kernel_position(channels):
    geometry = ((2, 3), (1, 2), (1, 1), (1, 1))
    x, g = map(guarded, _pair(channels, 9, (4, 5), geometry, K=3, N=1))
    ghost, _ = conv_norm.conv_ghost_sq_norm(x, g, geometry, 1)
    exact, (_, ref, _) = conv_oracle(x, g, geometry, 1), _reference(x, g, geometry, 1)
    assert_within_budget(ghost, ref, exact, 2e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_checked_ghost_norms(groups):
    geometry = ((2, 2), (1, 1), (0, 0), (1, 1))
    x, g = _pair(4, 6, (5, 4), geometry, K=3)
    x += 100  # what all positions share cancels where the gradients sum to nothing
    g[:, 1:] -= g[:, 1:].mean((-1, -2), keepdim=True)
    x, g = guarded(x), guarded(g)
    sq_norm, uncancelled = conv_norm.conv_ghost_sq_norm(x, g, geometry, groups)
    lost = sq_norm < 0.1 * uncancelled
    assert lost.any()
    assert not lost.all()
    checked = conv_norm.conv_checked_ghost_sq_norm(x, g, geometry, groups, 0.1)
    direct = conv_norm.conv_direct_sq_norm(x, g, geometry, groups)
    torch.testing.assert_close(checked[lost], direct[lost], rtol=1e-5, atol=0)
    torch.testing.assert_close(checked[~lost], sq_norm[~lost], rtol=1e-6, atol=0)


def test_many_cotangents():
    geometry = ((3, 3), (1, 1), (1, 1), (1, 1))
    x, g = map(guarded, _pair(1, 9, (3, 4), geometry, K=23, N=1))
    ghost, _ = conv_norm.conv_ghost_sq_norm(x, g, geometry, 1)
    exact, (_, ref, _) = conv_oracle(x, g, geometry, 1), _reference(x, g, geometry, 1)
    assert_within_budget(ghost, ref, exact, 2e-6)


@product_modes
def test_only_what_is_needed(mode):
    geometry = ((3, 3), (1, 1), (1, 1), (1, 1))
    x, g = map(guarded, _pair(16, 36, (5, 4), geometry, mode.dtype))
    needed = torch.tensor([[True, False], [False, True]], device=DEVICE)
    actual = conv_norm.conv_direct_sq_norm(
        x, g, geometry, 2, needed, input_precision=mode.precision
    )
    assert (actual[~needed] == 0).all()
    exact, ref = conv_oracle(x, g, geometry, 2)[needed.cpu()], _reference(x, g, geometry, 2)[0]
    assert_within_budget(actual[needed], ref[needed], exact, mode.slack)


@pytest.mark.parametrize("N, K", [(0, 2), (2, 0)])
def test_nothing_to_sum(N, K):
    geometry = ((3, 3), (1, 1), (1, 1), (1, 1))
    x, g = _pair(3, 5, (4, 4), geometry, N=N, K=K)
    assert conv_norm.conv_direct_sq_norm(x, g, geometry, 1).shape == (N, K)
    assert conv_norm.conv_ghost_sq_norm(x, g, geometry, 1).sq_norm.shape == (N, K)


def test_no_channels():
    geometry = ((3, 3), (1, 1), (1, 1), (1, 1))
    x, g = _pair(0, 5, (4, 4), geometry)
    assert (conv_norm.conv_direct_sq_norm(x, g, geometry, 1) == 0).all()
    assert (conv_norm.conv_ghost_sq_norm(x, g, geometry, 1).sq_norm == 0).all()


def test_strides():
    geometry = ((3, 2), (1, 1), (1, 0), (1, 1))
    x, g = _pair(2, 3, (4, 4), geometry)
    expected = conv_norm.conv_direct_sq_norm(x, g, geometry, 1)
    assert torch.equal(
        conv_norm.conv_direct_sq_norm(scattered(x), scattered(g), geometry, 1), expected
    )
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(conv_norm.conv_direct_sq_norm(last, g, geometry, 1), expected)
    ghost = conv_norm.conv_ghost_sq_norm(x, g, geometry, 1)
    g_last = g.flatten(0, 1).to(memory_format=torch.channels_last).view_as(g)
    for strided in ((scattered(x), scattered(g)), (last, g_last), (x, g_last), (last, g)):
        actual = conv_norm.conv_ghost_sq_norm(*strided, geometry, 1)
        torch.testing.assert_close(actual, ghost, rtol=0, atol=0)
        assert torch.equal(conv_norm.conv_direct_sq_norm(*strided, geometry, 1), expected)


def test_beyond_32_bits():
    geometry = ((3, 2), (1, 1), (1, 0), (1, 1))
    x, g = _pair(2, 3, (3, 3), geometry, torch.float16, N=3, K=1)
    far = (far_apart(x), far_apart(g))
    for op in (conv_norm.conv_direct_sq_norm, conv_norm.conv_ghost_sq_norm):
        torch.testing.assert_close(op(*far, geometry, 1), op(x, g, geometry, 1), rtol=0, atol=0)


def test_same_bits_twice_and_alone():
    geometry = ((3, 3), (1, 1), (1, 1), (1, 1))
    x, g = _pair(4, 6, (9, 8), geometry)
    for op in (conv_norm.conv_direct_sq_norm, conv_norm.conv_ghost_sq_norm):
        first = op(x, g, geometry, 2)
        torch.testing.assert_close(op(x, g, geometry, 2), first, rtol=0, atol=0)
        alone = op(x[1:], g[1:], geometry, 2)
        torch.testing.assert_close(alone[-1][-1], first[-1][-1], rtol=0, atol=0)
