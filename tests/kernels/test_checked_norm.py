import pytest
import torch
from fastgradnorm_kernels import checked_norm, direct_norm, ghost_norm, reference

from tests.support.kernel_support import (
    assert_same_bits,
    assert_within_budget,
    dtypes,
    guarded,
    linear_oracle,
    randn,
)


def _pair(n, k, t, i, o, dtype):
    """Every second cotangent's gradients cancel in what all positions share."""
    a, g = randn(n, t, i, dtype=dtype) + 20, randn(n, k, t, o, dtype=dtype)
    g[:, ::2] -= g[:, ::2].mean(2, keepdim=True)
    return guarded(a), guarded(g)


@pytest.mark.slow
@dtypes
@pytest.mark.parametrize(
    "n, k, t, i, o",
    [(2, 3, 20, 7, 5), pytest.param(3, 2, 140, 33, 17, marks=pytest.mark.slow)],
)
def test_lost_norms_are_formed_again(n, k, t, i, o, dtype):
    a, g = _pair(n, k, t, i, o, dtype)
    ghost = ghost_norm.ghost_sq_norm(a, g)
    lost = ghost.sq_norm < 1e-2 * ghost.uncancelled
    assert lost[:, ::2].all()
    assert not lost[:, 1::2].any()
    checked = checked_norm.checked_sq_norm(a, g, 1e-2)
    exact, ref = linear_oracle(a, g), reference.direct_sq_norm(a, g)
    assert_within_budget(checked[lost], ref[lost], exact[lost.cpu()], 3e-6)
    torch.testing.assert_close(checked[~lost], ghost.sq_norm[~lost], rtol=1e-6, atol=0)


@pytest.mark.slow
def test_norms_that_kept_their_digits_are_not_formed_again(monkeypatch):
    a, g = randn(2, 20, 7, dtype=torch.float32) + 20, randn(2, 6, 20, 5, dtype=torch.float32)
    left = torch.tensor([0, 1e-2, 3e-2, 0.15, 0.2, 1], dtype=g.dtype, device=g.device)
    shared = g.mean(2, keepdim=True)
    g += left[:, None, None] * shared.sign() - shared
    ghost = ghost_norm.ghost_sq_norm(a, g)
    shares, again = ghost.sq_norm / ghost.uncancelled, list[torch.Tensor]()
    expected = shares < 0.1
    assert ((shares > 0.1) & (shares < 1)).any()  # what only the share itself tells apart
    assert expected.any()
    parts = direct_norm.parts

    def noted(activations, grads, needed, *rest):
        again.append(needed.bool())
        return parts(activations, grads, needed, *rest)

    monkeypatch.setattr(direct_norm, "parts", noted)
    checked_norm.checked_sq_norm(a, g, 0.1)
    assert torch.equal(torch.cat(again, 1), expected)


@pytest.mark.slow
@pytest.mark.parametrize("most", [16, 8], ids=["two and three", "one by one"])
def test_cotangents_that_come_in_parts(most, monkeypatch):
    a, g = _pair(2, 5, 20, 7, 5, torch.float32)
    whole = checked_norm.checked_sq_norm(a, g, 1e-2)
    monkeypatch.setattr(direct_norm, "_MOST_ROWS", most)
    assert_same_bits(checked_norm.checked_sq_norm(a, g, 1e-2), whole)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4, 5), (2, 0, 3, 4, 5), (2, 3, 0, 4, 5)], ids=str)
def test_nothing(shape):
    n, k, t, i, o = shape
    found = checked_norm.checked_sq_norm(randn(n, t, i), randn(n, k, t, o), 1e-2)
    assert found.shape == (n, k)
    assert (found == 0).all()


@pytest.mark.slow
def test_what_is_not_finite_stays():
    a, g = _pair(2, 2, 20, 7, 5, torch.float32)
    g[0, 1, 3, 2] = torch.nan
    found = checked_norm.checked_sq_norm(a, g, 1e-2).isnan()
    assert found.tolist() == [[False, True], [False, False]]
