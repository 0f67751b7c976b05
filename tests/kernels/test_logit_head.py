import math

import pytest
import torch
from fastgradnorm_kernels import logit_head, reference

from tests.support.asserts import assert_close_relative
from tests.support.kernel_support import (
    DEVICE,
    assert_within_budget,
    confident_oracle,
    dtypes,
    far_apart,
    guarded,
    head_oracle,
    randn,
    scattered,
)

SHAPES = [
    pytest.param(2, 16, id="one-tile"),
    pytest.param(70, 10, id="ragged"),
    pytest.param(1, 1, id="scalar"),
    pytest.param(3, 2, id="two-classes"),
    pytest.param(5, 65, id="wider"),
    pytest.param(2, 300, id="widest"),
]


@pytest.fixture(params=["as it is", "tile", "stream", "streams"])
def kernel(request, monkeypatch):
    """Each kernel at any number of classes, and what is chosen: few are a thread's."""
    if request.param == "tile":
        monkeypatch.setattr(logit_head, "_THREADED", 0)
    if "stream" in request.param:
        small = {"W": 16, "STEPS": 2 if request.param == "streams" else 4, "num_warps": 1}
        monkeypatch.setattr(logit_head, "blocks", lambda classes: dict(small))
    return logit_head.head_scores


@pytest.mark.slow
@dtypes
@pytest.mark.parametrize("N, C", SHAPES)
def test_head_scores(N, C, dtype, kernel):
    z, q = guarded(2 * randn(N, C, dtype=dtype)), guarded(randn(N).square() + 1)
    actual, ref = kernel(z, q), reference.head_scores(z, q)
    for got, expected, exact in zip(actual, ref, head_oracle(z, q), strict=True):
        assert_within_budget(got, expected, exact, 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("C", [4097, 16385])
def test_many_classes(C):
    z, q = guarded(3 * randn(2, C)), guarded(randn(2).square() + 1)
    exact = reference.head_scores(z.double(), q.double())
    actual, ref = logit_head.head_scores(z, q), reference.head_scores(z, q)
    for got, expected, true in zip(actual, ref, exact, strict=True):
        assert_within_budget(got, expected, true, 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 4.0])
@pytest.mark.parametrize("lead", [0.0, 3.0, 30.0])
def test_flat_and_steep_rows(scale, lead, kernel):
    """Whether a second class of some probability shares a lane, or none, or all are alike."""
    z = scale * torch.randn(3, 290)
    z[:, 5] += lead
    z[1, ::16] += 2.0  # one lane's
    z[2, :48] -= 20.0  # what comes first is far below the rest, and all but equal
    z = z.to(DEVICE)
    q = torch.ones(3, device=DEVICE)
    exact, ref = reference.head_scores(z.double(), q), reference.head_scores(z, q)
    for got, expected, true in zip(kernel(z, q), ref, exact, strict=True):
        assert_within_budget(got, expected, true, 2e-6)
        # Each row by itself: the entropy's cotangent of a flat one is small.
        torch.testing.assert_close(got, true.float(), rtol=4e-6, atol=1e-9)


def confident_logits(C):
    """Rows from a third to `1 - p_max = 1e-30`, the top class at a different place in each."""
    tails = [0.3, 1e-2, 1e-4, 3e-5, 9e-8, 1e-12, 1e-20, 1e-30]
    z = torch.randn(len(tails), C)
    for i, tail in enumerate(tails):
        others = torch.cat([z[i, : i % C], z[i, i % C + 1 :]])
        z[i, i % C] = others.double().logsumexp(0) + math.log((1 - tail) / tail)
    return z


@pytest.mark.slow
@pytest.mark.parametrize("C", [2, 7, 130])
def test_confident_samples(C, kernel):
    z = confident_logits(C)
    q = torch.rand(len(z)) + 1
    actual = kernel(z.to(DEVICE), q.to(DEVICE))
    for got, exact in zip(actual, confident_oracle(z, q), strict=True):
        assert_close_relative(got, exact, 1e-5)


def test_runner_up_far_above_the_rest(kernel):
    z = torch.tensor([[70.0, 0.0, -60.0, -90.0], [0.0, 69.0, 68.0, -300.0]])
    q = torch.ones(2)
    actual = kernel(z.to(DEVICE), q.to(DEVICE))
    for got, exact in zip(actual, confident_oracle(z, q), strict=True):
        assert_close_relative(got, exact, 1e-5)


def test_ties(kernel):
    z = torch.tensor([[2.0, 2, 2, 2], [1, 3, 3, 0], [5, 5, 5, 1]])
    q = torch.tensor([1.0, 2, 3])
    actual = kernel(z.to(DEVICE), q.to(DEVICE))
    expected, squared, entropy = (x.cpu() for x in actual)
    exact = head_oracle(z, q)
    torch.testing.assert_close(expected.double(), exact[0], rtol=2e-6, atol=0)
    torch.testing.assert_close(squared.double(), exact[1], rtol=2e-6, atol=0)
    torch.testing.assert_close(entropy.double(), exact[2], rtol=2e-6, atol=1e-7)
    assert entropy[0] == 0


@pytest.mark.slow
def test_classes_that_are_ruled_out(kernel):
    z = guarded(randn(3, 9))
    kept = [0, 2, 3, 7]
    out = torch.full_like(z, -torch.inf)
    out[:, kept] = z[:, kept]
    q = torch.ones(3, device=DEVICE)
    torch.testing.assert_close(kernel(out, q), kernel(z[:, kept], q), rtol=1e-6, atol=0)
    one = torch.full((1, 5), -torch.inf, device=DEVICE)
    one[0, 3] = 2.0
    assert torch.stack(kernel(one, q[:1])).eq(0).all()


def test_one_bad_row(kernel):
    z, q = randn(4, 9), torch.ones(4, device=DEVICE)
    expected = kernel(z, q)
    bad = z.clone()
    bad[1, 4] = torch.nan
    bad[2, 4] = torch.inf
    actual = kernel(bad, q)
    for got, good in zip(actual, expected, strict=True):
        assert torch.equal(got[[0, 3]], good[[0, 3]])
        assert got[1].isnan()


@pytest.mark.parametrize("C", [1, 65, 130])
@pytest.mark.parametrize("bad", [[0], [-1], slice(None)], ids=["first", "last", "all"])
def test_bad_logits(C, bad, kernel):
    """Alone in its block, one is the largest there and the only one."""
    z, q = randn(3, C), torch.ones(3, device=DEVICE)
    z[1, bad] = torch.nan
    actual = torch.stack([*kernel(z, q)])
    assert actual[:, 1].isnan().all()
    assert actual[:, [0, 2]].isfinite().all()


def test_extreme_logits(kernel):
    z = torch.tensor([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [3e38, -3e38, 0]], device=DEVICE)
    q = torch.ones(3, device=DEVICE)
    expected, squared, entropy = kernel(z, q)
    assert expected[[0, 2]].eq(0).all()
    assert entropy.eq(0).all()
    assert abs(squared[1].item() - 2 / 3) < 1e-6


def test_no_rows(kernel):
    scores = kernel(randn(0, 4), randn(0))
    assert [score.shape for score in scores] == [(0,)] * 3


@pytest.mark.slow
def test_strides(kernel):
    z, q = randn(3, 9), randn(3).square()
    expected = kernel(z, q)
    torch.testing.assert_close(kernel(scattered(z), scattered(q)), expected, rtol=0, atol=0)
    torch.testing.assert_close(kernel(z.T.contiguous().T, q), expected, rtol=0, atol=0)


@pytest.mark.slow
def test_beyond_32_bits(kernel):
    z, q = randn(3, 9, dtype=torch.float16), randn(3).square()
    # Vectors of numbers that lie side by side are added up in another order.
    torch.testing.assert_close(kernel(far_apart(z), q), kernel(z, q), rtol=1e-6, atol=0)


@pytest.mark.slow
def test_same_bits_twice_and_alone(kernel):
    z, q = randn(5, 200), randn(5).square()
    first = kernel(z, q)
    torch.testing.assert_close(kernel(z, q), first, rtol=0, atol=0)
    for got, all_of_them in zip(kernel(z[3:4], q[3:4]), first, strict=True):
        assert torch.equal(got, all_of_them[3:4])
