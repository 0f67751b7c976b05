"""Complex parameters: real and imaginary part are two numbers, and training moves both."""

import pytest
import torch
from torch import nn

from fastgradnorm import (
    Options,
    gradient_sketch,
    naive_score_pool,
    register_rule,
    score_pool,
)
from fastgradnorm._model.batches import as_batch
from fastgradnorm._model.subject import Subject
from fastgradnorm._witness.rounding import doubled
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb


def weight(*shape):
    return nn.Parameter(0.5 * torch.randn(*shape, dtype=torch.cfloat))


def model_of(function, **parameters):
    """`function` of the model and an input [1, 4] in its complex dtype, to complex [1, 4]."""

    def forward(m, x):
        z = function(m, m.body(x).to(m.w.dtype))
        return m.head(torch.tanh(torch.cat([z.real, z.imag], 1)))

    model = Custom(forward, body=linear(4, 4), head=linear(8, 3))
    for name, parameter in {"w": weight(4, 4), **parameters}.items():
        setattr(model, name, parameter)
    return model


def spectral(m, x):
    """A layer of a Fourier neural operator."""
    return torch.fft.ifft(torch.fft.fft(x) * m.w[0]) + x


def of_a_layer(layer):
    return model_of(lambda m, x: m.layer(x) * m.w[0], layer=layer)


MODELS = {
    "matmul": lambda: model_of(lambda m, x: x @ m.w),
    "size": lambda: model_of(lambda m, x: (x @ m.w).abs().to(x.dtype)),
    "elementwise": lambda: model_of(lambda m, x: x * m.w[0] + m.w[1]),
    "used-twice": lambda: model_of(lambda m, x: torch.tanh(x @ m.w) @ m.w),
    "conjugated": lambda: model_of(lambda m, x: x @ m.w.conj() + x @ m.w.mH),
    "parts": lambda: model_of(lambda m, x: x * torch.complex(m.w.real[0].sin(), m.w.imag[1])),
    "view_as_real": lambda: model_of(lambda m, x: x * torch.view_as_real(m.w)[0].sum(-1)),
    "phase": lambda: model_of(lambda m, x: torch.polar(x.abs(), m.w[0].angle()) * m.w[1].abs()),
    "fourier": lambda: model_of(spectral),
    "linear": lambda: of_a_layer(perturb(nn.Linear(4, 4, dtype=torch.cfloat))),
    "functional": lambda: model_of(lambda m, x: nn.functional.linear(x, m.w, m.w[0])),
    "convolution": lambda: of_a_layer(
        nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 1, 3, padding=1, dtype=torch.cfloat),
                      nn.Flatten())
    ),
    "einsum": lambda: model_of(lambda m, x: torch.einsum("ni,oi->no", x, m.w)),
    "addmm": lambda: model_of(lambda m, x: torch.addmm(m.w[0], x, m.w)),
    "turned": lambda: model_of(lambda m, x: x @ (m.w * torch.arange(4).to(x).mul(1j).exp())),
    "cast": lambda: model_of(lambda m, x: x @ m.w.to(x.dtype).contiguous()),
}  # fmt: skip


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
class TestModels:
    @pytest.mark.slow
    def test_scores(self, build):
        model, x = build(), torch.randn(5, 4)
        table = oracle.norms(model, oracle.ones(x))
        for reduction in oracle.REDUCTIONS:
            options = {"scheme": oracle.SCHEMES, "reduction": reduction}
            found = score_pool(model, [x], progress=False, **options)
            naive = naive_score_pool(model, [x], **options)
            for scheme in oracle.SCHEMES:
                expected = table.scores(scheme, reduction)
                assert_close_relative(found[scheme], expected, 1e-5, f"{scheme} {reduction}")
                assert_close_relative(naive[scheme], expected, 1e-5, f"naive {scheme} {reduction}")
                assert found[scheme].dtype == torch.float32

    def test_complex128(self, build):
        model, x = build()._apply(oracle.in_float64), torch.randn(3, 4).double()
        expected = oracle.scores(model, oracle.ones(x))
        scores = score_pool(model, [x], progress=False)
        assert scores.dtype == torch.float64
        assert_close_relative(scores, expected, 1e-9)

    @pytest.mark.slow
    def test_sketches(self, build):
        """With a bucket for each number a sketch loses next to nothing of a gradient."""
        model, x = build(), torch.randn(3, 4)
        norms = oracle.scores(model, oracle.ones(x), "entropy")
        sizes = [
            gradient_sketch(model, [x], dim=1 << 14, seed=seed, progress=False).norm(dim=1)
            for seed in range(8)
        ]
        mean = torch.stack(sizes).square().mean(0).sqrt()
        assert_close_relative(mean, norms, 0.02)


@pytest.mark.slow
def test_a_model_whose_first_parameter_is_complex():
    model = Custom(lambda m, x: m.head((x.to(m.first.dtype) @ m.first).abs()))
    model.first, model.head = weight(4, 4), linear(4, 3)
    for dtype in (torch.float32, torch.float64):
        wide = dtype == torch.float64
        model = model._apply(oracle.in_float64) if wide else model
        x = torch.randn(5, 4, dtype=dtype)
        scores = score_pool(model, [x], progress=False)
        assert scores.dtype == dtype
        assert_close_relative(scores, oracle.scores(model, oracle.ones(x)), 1e-5)


def test_complex_inputs():
    model = model_of(lambda m, x: x @ m.w)
    model.body = nn.Identity()
    x = torch.randn(5, 4, dtype=torch.cfloat)
    expected = oracle.scores(model, oracle.ones(x))
    assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)


def test_complex_numbers_are_looked_at_in_double_too():
    model = model_of(lambda m, x: x @ m.w)
    model.body = nn.Identity()
    options, x = Options(), torch.randn(5, 4, dtype=torch.cfloat)
    subject = Subject(model, options)
    engine, batch = doubled(subject, as_batch(x, torch.device("cpu")), options)
    assert batch.leaves[0].dtype == torch.complex128
    assert {p.dtype for p in engine.subject.model.parameters()} <= {
        torch.complex128, torch.float64
    }  # fmt: skip
    assert engine.score(batch).scores["expected"].dtype == torch.float64


def test_a_rule_of_ones_own_is_not_asked_about_complex_numbers():
    @torch.overrides.wrap_torch_function(lambda x, gain: (x, gain))
    def amplify(x, gain):
        return x * gain

    def rule(call):
        raise AssertionError("asked")

    register_rule(amplify, rule, names=["x", "gain"])
    model, x = model_of(lambda m, x: amplify(x, m.w[0])), torch.randn(5, 4)
    expected = oracle.scores(model, oracle.ones(x))
    assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)


def test_the_referee_by_finite_differences():
    """Of the real and the imaginary part of each element."""
    model, x = (
        model_of(lambda m, x: torch.tanh(x @ m.w))._apply(oracle.in_float64),
        torch.randn(1, 4),
    )
    table = oracle.norms(model, [x])

    def entropy():
        p = model(x.double()).softmax(1)
        return float(-(p * p.log()).sum())

    total, step = 0.0, 1e-6
    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.view(-1)
            for i in range(len(flat)):
                for unit in (1, 1j) if flat.is_complex() else (1,):
                    flat[i] += step * unit
                    more = entropy()
                    flat[i] -= 2 * step * unit
                    total += ((more - entropy()) / (2 * step)) ** 2
                    flat[i] += step * unit
    assert_close_relative(table.scores("entropy"), torch.tensor([total**0.5]), 1e-6)
