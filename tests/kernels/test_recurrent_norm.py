"""Norms of weights and biases of a recurrent layer, beside their gradients in float64."""

import fastgradnorm_kernels as kernels
import pytest
import torch
from fastgradnorm_kernels import recurrent_norm
from torch.func import vmap

# Inputs, hidden units, columns at both products, further ones at each.
SIZES = [(5, 4, 16, 0), (5, 4, 8, 4), (3, 6, 6, 0)]


def exact(a, g, inputs, both):
    own = (g.shape[-1] - both) // 2
    a, g = a.double(), g.double()
    found, biases = [], []
    for each, start in ((a[..., :inputs], both), (a[..., inputs:], both + own)):
        rows = torch.cat([g[..., :both], g[..., start : start + own]], -1)
        found.append(torch.einsum("nkto,nti->nkoi", rows, each).square().sum((-1, -2)))
        biases.append(rows.sum(-2).square().sum(-1))
    return torch.stack(found + biases, -1)


@pytest.mark.parametrize("positions", [1, 3, 40])  # closed form, ghost, direct
@pytest.mark.parametrize("inputs, hidden, both, own", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms(inputs, hidden, both, own, positions, dtype):
    a = torch.randn(3, positions, inputs + hidden, dtype=dtype)
    g = torch.randn(3, 2, positions, both + 2 * own, dtype=dtype)
    found = kernels.recurrent_sq_norms(a, g, inputs, both)
    torch.testing.assert_close(found.double(), exact(a, g, inputs, both), rtol=1e-5, atol=0)


@pytest.mark.parametrize("own_call, block", [(1, 1), (1 << 40, 12), (1, 1 << 20)])
def test_blocks_and_products(monkeypatch, own_call, block):
    monkeypatch.setattr(recurrent_norm, "_OWN_CALL", own_call)
    monkeypatch.setattr(recurrent_norm, "_BLOCK", block)
    a, g = torch.randn(4, 3, 9), torch.randn(4, 5, 3, 16)
    found = kernels.recurrent_sq_norms(a, g, 5, 8)
    torch.testing.assert_close(found.double(), exact(a, g, 5, 8), rtol=1e-5, atol=0)


def test_terms_that_cancel():
    a = torch.randn(2, 1, 9).expand(-1, 2, -1) + 3e-3 * torch.randn(2, 2, 9)
    g = torch.randn(2, 3, 1, 16) * torch.tensor([1.0, -1.0])[:, None]
    g = g + 3e-3 * torch.randn(2, 3, 2, 16)
    found = kernels.recurrent_sq_norms(a, g, 5, 16)
    torch.testing.assert_close(found.double(), exact(a, g, 5, 16), rtol=3e-4, atol=0)


def test_under_vmap():
    a, g = torch.randn(3, 1, 4, 9), torch.randn(3, 5, 1, 1, 4, 16)

    def of_sample(a, g):
        return vmap(lambda g: kernels.recurrent_sq_norms(a, g, 5, 8)[0, 0])(g)

    found = vmap(of_sample)(a, g)
    wanted = exact(a[:, 0], g[:, :, 0, 0], 5, 8)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)
