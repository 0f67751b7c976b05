"""Attention by each way that a CPU has, and what is made of a fused kernel that is not as hoped."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from fastgradnorm_kernels import operators

from fastgradnorm import SlowPathWarning
from fastgradnorm._operations.attention_choice import _works, choose
from fastgradnorm._operations.attention_kernels import EFFICIENT, FLASH, FORMULA, ON_CPU, Given, Way
from tests.support.asserts import assert_exact
from tests.support.cases import Custom, linear, perturb
from tests.support.shared_models import CALLS, Attention, calling, tokens

CPU = torch.device("cpu")
ways = pytest.mark.parametrize("way", [FORMULA, ON_CPU], ids=["formula", "fused"])


def _mask(kind):
    if kind == "float":
        return torch.randn(2, 3, 6, 7)
    if kind == "for all":
        return torch.randn(1, 1, 6, 7)
    if kind == "padded":
        return torch.zeros(2, 1, 6, 7).masked_fill(torch.arange(7) > 3, -torch.inf)
    return None


@ways
@pytest.mark.parametrize("kind", ["none", "causal", "float", "for all", "padded"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_output_and_gradients(dtype, kind, way):
    shapes = (2, 3, 6, 4), (2, 3, 6, 4), (2, 3, 7, 4), (2, 3, 7, 4)
    g, *inputs = (torch.randn(shape).to(dtype) for shape in shapes)
    mask = _mask(kind)
    mask = None if mask is None else mask.to(dtype)
    wide = [t.double().requires_grad_() for t in inputs]
    scale, causal = 0.7, kind == "causal"
    exact = F.scaled_dot_product_attention(
        *wide, None if mask is None else mask.double(), is_causal=causal, scale=scale
    )
    exact = exact, *torch.autograd.grad(exact, wide, g.double())
    given = Given(*inputs, mask, causal, scale)
    made = way.forward(given)
    grads = way.backward(g, given, made)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    for actual, expected in zip((made.output, *grads), exact, strict=True):
        assert actual.dtype == dtype
        assert actual.shape == expected.shape
        assert (actual.double() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_kernels_of_processors_are_given_float32_at_least(dtype, monkeypatch):
    seen = set()

    def spied(kernel):
        def run(*args):
            seen.update(a.dtype for a in args if isinstance(a, torch.Tensor))
            return kernel(*args)

        return run

    for name in ("flash_attention", "flash_attention_backward"):
        monkeypatch.setattr(operators, name, spied(getattr(operators, name)))
    q, k, v, g = (torch.randn(2, 3, 6, 4).to(dtype) for _ in range(4))
    given = Given(q, k, v, _mask("float").to(dtype)[..., :6], False, 0.7)
    ON_CPU.backward(g, given, ON_CPU.forward(given))
    assert seen == {torch.promote_types(dtype, torch.float32)}


def test_a_row_that_sees_nothing_gives_zeros_by_the_formula():
    g, q, k, v = (torch.randn(1, 1, 3, 4) for _ in range(4))
    mask = torch.zeros(1, 1, 3, 3)
    mask[0, 0, 1] = -torch.inf
    given = Given(q, k, v, mask, False, 0.5)
    made = FORMULA.forward(given)
    grads = FORMULA.backward(g, given, made)
    assert made.output[0, 0, 1].eq(0).all()
    assert grads[0][0, 0, 1].eq(0).all()
    assert all(grad.isfinite().all() for grad in grads)


def test_values_of_another_size_by_the_formula():
    q, k, v = torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 6)
    assert choose(q, k, v, None, False) is FORMULA
    assert choose(q, k, v[..., :4], None, False) is ON_CPU
    assert choose(q, k, v[..., :4].double(), None, False) is FORMULA


@pytest.fixture
def by_the_formula(monkeypatch):
    used = []

    def choice(*_):
        used.append(True)
        return FORMULA

    monkeypatch.setattr("fastgradnorm._operations.attention_choice.choose", choice)
    yield
    assert used


@pytest.mark.slow
@pytest.mark.parametrize("kind", CALLS)
def test_models_by_the_formula(kind, by_the_formula):
    assert_exact(calling(kind), tokens(padded=True))


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
def test_multi_head_attention_by_the_formula(masked, by_the_formula):
    assert_exact(perturb(Attention(weights=False, masked=masked)), tokens(padded=masked))


@pytest.mark.slow
def test_models_with_values_of_another_size():
    def forward(m, x):
        q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (m.q, m.k, m.v))
        x = F.scaled_dot_product_attention(q, k, v)
        return m.head(x.transpose(1, 2).flatten(2).mean(1))

    parts = {"q": linear(8, 6), "k": linear(8, 6), "v": linear(8, 10), "head": linear(10, 3)}
    assert_exact(Custom(forward, **parts), tokens())


def _rounded(*tensors):
    """As TF32 has them."""
    return [
        t if t is None else ((t.view(torch.int32) + 0x1000) & ~0x1FFF).view(t.dtype)
        for t in tensors
    ]


def _wrong(at):
    """The formula, but for one thing."""

    def forward(given):
        if at == "missing":
            raise NotImplementedError("no kernel")
        if at == "layout":
            raise RuntimeError("the last dimension")
        if at == "TF32":
            q, k, v = _rounded(*given[:3])
            given = given._replace(q=q, k=k, v=v)
        if at == "mask":
            given = given._replace(is_causal=False)
        return FORMULA.forward(given)

    def backward(g, given, made):
        grads = FORMULA.backward(g, given, made)
        return (grads[0], grads[2], grads[1]) if at == "backward" else grads

    return Way(forward, backward)


@pytest.mark.parametrize("at", ["missing", "layout", "TF32", "mask", "backward"])
def test_a_kernel_that_is_not_as_hoped_is_not_used(at):
    kind = (CPU, torch.float32, (8, 8), False, True)
    with pytest.warns(SlowPathWarning, match="fused attention kernel .* formula"):
        assert not _works(_wrong(at), *kind)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_that_is_is_used(dtype, causal, masked):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _works(_wrong("nothing"), CPU, dtype, (8, 6), masked, causal)
        assert _works(ON_CPU, CPU, dtype, (8, 8), masked and not causal, causal)


def test_cuda_kernels_are_not_there_on_a_cpu():
    for way in (FLASH, EFFICIENT):
        with pytest.warns(SlowPathWarning, match="failed"):
            assert not _works(way, CPU, torch.float16, (8, 8), False, False)
