import pytest
import torch
from fastgradnorm_kernels import linear_head, reference

from tests.kernels.test_logit_head import confident_logits
from tests.support.asserts import assert_close_relative
from tests.support.kernel_support import (
    DEVICE,
    assert_within_budget,
    confident_oracle,
    dtypes,
    guarded,
    head_oracle,
    randn,
    scattered,
)

pytestmark = pytest.mark.slow

SHAPES = [
    pytest.param(3, 8, 5, id="small"),
    pytest.param(70, 37, 150, id="ragged"),
    pytest.param(64, 32, 128, id="one-tile"),
    pytest.param(1, 1, 1, id="scalar"),
    pytest.param(2, 70, 300, id="wide"),
    pytest.param(32, 5, 6, id="just-the-rows-of-one"),
]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Of a product at a time."""
    monkeypatch.setattr(linear_head, "_LOGITS", 1)
    monkeypatch.setattr(linear_head, "_LEAST", 32)


def _inputs(N, D, C, dtype, bias):
    h, w = randn(N, D), 2 * randn(C, D) / max(1, D) ** 0.5
    b = guarded(randn(C).to(dtype)) if bias else None
    return guarded(h.to(dtype)), guarded(w.to(dtype)), b


def _oracle(h, w, b):
    h, w = h.double().cpu(), w.double().cpu()
    z = h @ w.T + (0 if b is None else b.double().cpu())
    return head_oracle(z, h.square().sum(1) + (b is not None))


@dtypes
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("N, D, C", SHAPES)
def test_linear_head_scores(N, D, C, bias, dtype):
    h, w, b = _inputs(N, D, C, dtype, bias)
    actual = linear_head.linear_head_scores(h, w, b)
    ref = reference.linear_head_scores(h.float(), w.float(), None if b is None else b.float())
    for got, expected, exact in zip(actual, ref, _oracle(h, w, b), strict=True):
        assert_within_budget(got, expected, exact, 2e-6)


def test_few_logits_are_in_memory(monkeypatch):
    found, product = [], linear_head._logits
    monkeypatch.setattr(linear_head, "_LOGITS", 1 << 12)
    monkeypatch.setattr(
        linear_head, "_logits", lambda h, *rest: found.append(len(h)) or product(h, *rest)
    )
    h, w, b = _inputs(150, 5, 100, torch.float32, True)
    linear_head.linear_head_scores(h, w, b)
    assert found == [40, 40, 40, 30]


@pytest.mark.parametrize("C", [2, 7, 300])
def test_confident_samples(C):
    # each row of features picks one row of logits: products are exact, so that the logits are known
    z = confident_logits(C)
    h = torch.eye(len(z))
    actual = linear_head.linear_head_scores(h.to(DEVICE), z.T.contiguous().to(DEVICE))
    for got, exact in zip(actual, confident_oracle(z, torch.ones(len(z))), strict=True):
        assert_close_relative(got, exact, 1e-5)


def test_ties():
    z = torch.zeros(2, 260)
    z[0, [5, 200]] = 3.0
    h = torch.eye(2)
    actual = linear_head.linear_head_scores(h.to(DEVICE), z.T.contiguous().to(DEVICE))
    exact = head_oracle(z, torch.ones(2))
    for got, expected in zip(actual, exact, strict=True):
        torch.testing.assert_close(got.double().cpu(), expected, rtol=2e-6, atol=1e-8)


def test_no_rows_and_no_features():
    scores = linear_head.linear_head_scores(randn(0, 4), randn(3, 4))
    assert [score.shape for score in scores] == [(0,)] * 3
    expected, squared, entropy = linear_head.linear_head_scores(
        randn(2, 0), randn(4, 0), torch.zeros(4, device=DEVICE)
    )
    torch.testing.assert_close(squared.cpu(), torch.full((2,), 0.75))
    assert (entropy == 0).all()
    assert (expected > 0).all()


def test_one_bad_row():
    h, w, b = _inputs(4, 6, 140, torch.float32, True)
    expected = linear_head.linear_head_scores(h, w, b)
    h[1, 2] = torch.nan
    for got, good in zip(linear_head.linear_head_scores(h, w, b), expected, strict=True):
        assert torch.equal(got[[0, 2, 3]], good[[0, 2, 3]])
        assert got[1].isnan()


@pytest.mark.parametrize("C", [1, 65, 129, 140])
@pytest.mark.parametrize("bad", [0, -1])
def test_one_bad_class(C, bad):
    """Alone in its block, it is the largest logit there and the only one."""
    h, w, b = _inputs(3, 6, C, torch.float32, True)
    w[bad, 2] = torch.nan
    assert torch.stack([*linear_head.linear_head_scores(h, w, b)]).isnan().all()


def test_strides():
    h, w, b = _inputs(3, 9, 20, torch.float32, True)
    expected = linear_head.linear_head_scores(h, w, b)
    actual = linear_head.linear_head_scores(scattered(h), scattered(w), scattered(b))
    # Libraries multiply what lies otherwise in memory in another order.
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


def test_same_bits_twice_and_alone():
    h, w, b = _inputs(70, 20, 150, torch.float32, True)
    first = linear_head.linear_head_scores(h, w, b)
    torch.testing.assert_close(linear_head.linear_head_scores(h, w, b), first, rtol=0, atol=0)
    alone = linear_head.linear_head_scores(h[68:69], w, b)
    # Libraries multiply a row by itself in another order.
    torch.testing.assert_close(alone.expected, first.expected[68:69], rtol=1e-5, atol=0)
