"""Complex conjugates: at once, and as PyTorch has them.

Warnings are errors in these tests, so that an operation which is left to PyTorch fails.
"""

import pytest
import torch
from torch import nn

from fastgradnorm import naive_score_pool, score_pool
from tests.support import oracle
from tests.support.activations import assert_exact_and_at_once
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb


def z(x):
    """`[N, H]`, complex, of what came of a linear layer."""
    return torch.complex(x, x.flip(-1).tanh())


def outer(x):
    return z(x)[..., None] * z(x)[..., None, :].cumsum(-1)


WAYS = {
    "method": lambda x: z(x).conj().imag,
    "function": lambda x: torch.view_as_real(torch.conj(z(x)).resolve_conj()).sum(-1),
    "power": lambda x: (z(x).conj() * z(x).roll(1, -1)).imag,
    "absolute": lambda x: z(x).conj().abs(),
    "angle": lambda x: z(x).conj().angle(),
    "spectrum": lambda x: torch.fft.fft(z(x).conj()).imag,
    "physical": lambda x: z(x).conj_physical().imag,
    "physical, function": lambda x: torch.conj_physical(z(x)).imag.exp(),
    "in place": lambda x: z(x).clone().conj_physical_().imag,
    "written to": lambda x: z(x).conj().mul_(2j).imag,
    "twice": lambda x: z(x).conj().conj().imag,
    "adjoint": lambda x: outer(x).adjoint().imag.sum(-1),
    "adjoint, function": lambda x: torch.adjoint(outer(x)).imag.sum(-1),
    "mH": lambda x: (outer(x) @ outer(x).mH).imag.sum(-1).tanh() + x,
    "H": lambda x: torch.stack([m.H.imag.sum(-1) for m in outer(x)]),
    "vecdot": lambda x: torch.linalg.vecdot(z(x), z(x).roll(1, -1)).imag[..., None] * x,
    "vecdot, first": lambda x: torch.linalg.vecdot(outer(x), 2j * outer(x), dim=-2).imag,
    "vdot": lambda x: torch.stack([torch.vdot(m, m.roll(1, -1)).imag for m in z(x)])[:, None] * x,
    "of real numbers": lambda x: x.conj() + x.conj_physical().mT.mH,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_it_is_exact_and_runs_at_once(way):
    assert_exact_and_at_once(way)


OF_PARAMETERS = {
    "itself": lambda m, x: x * m.w.conj(),
    "made": lambda m, x: x * torch.complex(m.real, m.real.tanh()).conj(),
    "adjoint": lambda m, x: x @ m.W.mH + x @ m.W.H,
    "anti-hermitian": lambda m, x: x @ torch.matrix_exp(m.W - m.W.mH),
    "vecdot": lambda m, x: torch.linalg.vecdot(m.w, x)[..., None] * m.w,
}


@pytest.mark.slow
@pytest.mark.parametrize("way", OF_PARAMETERS.values(), ids=OF_PARAMETERS.keys())
def test_of_parameters(way):
    torch.manual_seed(0)
    model = perturb(Custom(lambda m, x: m.head(way(m, z(m.body(x))).imag), body=linear(4, 4)))
    model.head, model.real = linear(4, 3), nn.Parameter(torch.randn(4))
    model.w = nn.Parameter(torch.randn(4, dtype=torch.cfloat))
    model.W = nn.Parameter(0.3 * torch.randn(4, 4, dtype=torch.cfloat))
    x = torch.randn(5, 4)
    expected = naive_score_pool(model, [x])
    assert_close_relative(expected, oracle.scores(model, oracle.ones(x)), 1e-5)
    for verify in (True, False):
        assert_close_relative(score_pool(model, [x], verify=verify, progress=False), expected, 1e-5)
