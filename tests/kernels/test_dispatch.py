import functools

import fastgradnorm_kernels as kernels
import pytest
import torch
from fastgradnorm_kernels import _dispatch, reference
from fastgradnorm_kernels._forms import choose_tiled_form
from torch.func import vmap

from tests.support.asserts import assert_close_relative
from tests.support.kernel_support import (
    DEVICE,
    affine_oracle,
    conv_oracle,
    embedding_oracle,
    head_oracle,
    linear_oracle,
    randn,
)

# `torch.compile` warns of what is slow in it on that one patch version of Python.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Guards may run slower on Python 3.13.0:RuntimeWarning"
)

GEOMETRY = ((3, 3), (2, 1), (1, 0), (1, 1))
backends = pytest.mark.parametrize("backend", ["torch", "triton"])


def _ids(*shape):
    return torch.randint(0, 5, shape).to(DEVICE)


# name, activations of one sample [1, ...], output gradients [1, K, ...], the operation
def _cases(backend, K=3):
    def conv(x, g):
        return kernels.conv_sq_norm(x, g, *GEOMETRY, 2, backend)

    def embedding(ids, g):
        return kernels.embedding_sq_norm(ids, g, 1, backend)

    return {
        "weight, one position": (randn(4, 1, 1, 6), randn(4, 1, K, 1, 5), _with(backend)),
        "weight, ghost": (randn(4, 1, 3, 9), randn(4, 1, K, 3, 8), _with(backend)),
        "weight, direct": (randn(4, 1, 30, 2), randn(4, 1, K, 30, 3), _with(backend)),
        "ghost": (
            randn(4, 1, 3, 6),
            randn(4, 1, K, 3, 5),
            functools.partial(kernels.ghost_sq_norm, backend=backend),
        ),
        "direct": (
            randn(4, 1, 3, 6),
            randn(4, 1, K, 3, 5),
            functools.partial(kernels.direct_sq_norm, backend=backend),
        ),
        "conv": (randn(4, 1, 4, 5, 6), randn(4, 1, K, 6, 3, 4), conv),
        "affine": (
            randn(4, 1, 7, 5),
            randn(4, 1, K, 7, 5),
            functools.partial(kernels.affine_sq_norm, backend=backend),
        ),
        "embedding": (_ids(4, 1, 7), randn(4, 1, K, 7, 5), embedding),
    }


def _with(backend):
    return functools.partial(kernels.weight_sq_norm, backend=backend)


def _each(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _loop(op, a, g):
    """One call a sample and cotangent, stacked [N, K]."""
    rows = [[_each(op(a[n], g[n, :, k : k + 1])) for k in range(g.shape[2])] for n in range(len(g))]
    count = len(rows[0][0])
    return [
        torch.stack([torch.stack([cell[i][0, 0] for cell in row]) for row in rows])
        for i in range(count)
    ]


@pytest.mark.slow
@backends
@pytest.mark.parametrize("name", _cases("torch"))
def test_samples_and_cotangents(name, backend):
    a, g, op = _cases(backend)[name]
    expected = _loop(op, a, g)
    # as the engine calls: one sample, one cotangent; the activations know no cotangents
    per_cotangent = vmap(op, in_dims=(None, 1))
    actual = _each(vmap(per_cotangent)(a, g.unsqueeze(3)))
    for got, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(got[:, :, 0, 0], want, rtol=1e-5, atol=0)


@pytest.mark.slow
@backends
@pytest.mark.parametrize("name", _cases("torch"))
def test_activations_without_a_batch(name, backend):
    a, g, op = _cases(backend)[name]
    expected = _loop(op, a[:1].expand(a.shape), g)
    actual = _each(vmap(vmap(op, in_dims=(None, 1)), in_dims=(None, 0))(a[0], g.unsqueeze(3)))
    for got, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(got[:, :, 0, 0], want, rtol=1e-5, atol=0)


@backends
@pytest.mark.parametrize("name", _cases("torch"))
def test_gradients_without_a_batch(name, backend):
    a, g, op = _cases(backend)[name]
    expected = _each(op(a[:, 0], g[:1, 0].expand(4, *g.shape[2:])))
    actual = _each(vmap(op, in_dims=(0, None))(a, g[0]))
    for got, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(got[:, 0], want, rtol=1e-5, atol=0)


@backends
@pytest.mark.parametrize("name", _cases("torch"))
def test_batch_dimension_elsewhere(name, backend):
    a, g, op = _cases(backend)[name]
    expected = _each(vmap(op)(a, g))
    actual = _each(vmap(op, in_dims=(-1, 2))(a.movedim(0, -1), g.movedim(0, 2)))
    for got, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=0)


@pytest.mark.slow
@backends
@pytest.mark.parametrize("name", _cases("torch"))
def test_compiles_as_one_graph(name, backend):
    a, g, op = _cases(backend)[name]
    a, g = a[:, 0], g[:, 0]
    torch.compiler.reset()
    compiled = torch.compile(op, backend="aot_eager", fullgraph=True)
    for got, want in zip(_each(compiled(a, g)), _each(op(a, g)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=0)


@pytest.mark.slow
@backends
def test_against_the_oracle(backend):
    a, g = randn(2, 5, 4), randn(2, 3, 5, 6)
    actual = kernels.weight_sq_norm(a, g, backend)
    assert_close_relative(actual, linear_oracle(a, g), 1e-5)
    assert_close_relative(kernels.direct_sq_norm(a, g, backend), linear_oracle(a, g), 1e-5)
    x, gx = randn(2, 4, 5, 6), randn(2, 3, 6, 3, 4)
    actual = kernels.conv_sq_norm(x, gx, *GEOMETRY, 2, backend)
    assert_close_relative(actual, conv_oracle(x, gx, GEOMETRY, 2), 1e-5)
    x, gx = randn(2, 5, 6), randn(2, 3, 5, 6)
    actual, exact = kernels.affine_sq_norm(x, gx, backend), affine_oracle(x, gx)
    assert_close_relative(actual[0], exact[0], 1e-5)
    assert_close_relative(actual[1], exact[1], 1e-5)
    ids = _ids(2, 5)
    actual = kernels.embedding_sq_norm(ids, gx, 1, backend)
    assert_close_relative(actual, embedding_oracle(ids, gx, 1), 1e-5)


@backends
@pytest.mark.parametrize("common", [1.0, 0.3, 0.1, 0.03, 0.01, 0.001])
def test_cancelled_ghosts_are_computed_directly(common, backend):
    # activations that differ by `common` only, and gradients that sum to zero
    a = randn(2, 1, 512) + common * randn(2, 16, 512)
    g = randn(2, 3, 16, 64)
    g[:, 1:] -= g[:, 1:].mean(2, keepdim=True)
    assert kernels.choose_form(16, 512, 64, 3) == "ghost"
    actual, exact = kernels.weight_sq_norm(a, g, backend), linear_oracle(a, g)
    assert_close_relative(actual.sqrt(), exact.sqrt(), 1e-5)


@backends
def test_cancelled_convolutions_are_computed_directly(backend):
    x = randn(2, 16, 1, 1) + 1e-3 * randn(2, 16, 5, 5)
    g = randn(2, 2, 16, 3, 3)
    g -= g.mean((-1, -2), keepdim=True)
    geometry = ((3, 3), (1, 1), (0, 0), (1, 1))
    assert kernels.choose_form(9, 144, 16, 2) == "ghost"
    actual = kernels.conv_sq_norm(x, g, *geometry, 1, backend)
    assert_close_relative(actual.sqrt(), conv_oracle(x, g, geometry, 1).sqrt(), 1e-5)


@backends
def test_two_dtypes(backend):
    a, g = randn(2, 3, 4, dtype=torch.float16), randn(2, 2, 3, 5)
    # The wider of both; on a GPU the narrower, as autograd has it under autocast.
    dtype = torch.float16 if a.is_cuda else torch.float32
    expected = kernels.weight_sq_norm(a.to(dtype), g.to(dtype), backend)
    torch.testing.assert_close(kernels.weight_sq_norm(a, g, backend), expected)


@pytest.mark.slow
@backends
def test_head_scores(backend):
    z, q = randn(5, 7), randn(5).square() + 1
    actual = kernels.head_scores(z, q, backend=backend)
    for got, exact in zip(actual, head_oracle(z, q), strict=True):
        assert_close_relative(got, exact, 1e-5)
    op = functools.partial(kernels.head_scores, backend=backend)
    grouped = vmap(op)(z[:4].view(2, 2, 7), q[:4].view(2, 2))
    for got, want in zip(grouped, actual, strict=True):
        torch.testing.assert_close(got.flatten(), want[:4], rtol=1e-5, atol=0)
    shared = vmap(op, in_dims=(0, None))(z[:4].view(2, 2, 7), q[:2])
    for got, want in zip(shared, op(z[:4], q[:2].repeat(2)), strict=True):
        torch.testing.assert_close(got.flatten(), want, rtol=1e-5, atol=0)
    compiled = torch.compile(op, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(z, q), actual, rtol=1e-5, atol=0)


@pytest.mark.slow
@backends
def test_linear_head_scores(backend):
    h, w, b = randn(4, 6), randn(7, 6), randn(7)
    op = functools.partial(kernels.linear_head_scores, backend=backend)
    actual = op(h, w, b)
    z = h.double() @ w.double().T + b.double()
    for got, exact in zip(actual, head_oracle(z, h.double().square().sum(1) + 1), strict=True):
        assert_close_relative(got, exact, 1e-5)
    grouped = vmap(op, in_dims=(0, None, None))(h.view(2, 2, 6), w, b)
    for got, want in zip(grouped, actual, strict=True):
        torch.testing.assert_close(got.flatten(), want, rtol=1e-5, atol=0)
    ensemble = torch.stack([w, 2 * w])
    apart = vmap(op, in_dims=(None, 0, None))(h, ensemble, b)
    for i, scores in enumerate(zip(*apart, strict=True)):
        for got, want in zip(scores, op(h, ensemble[i], b), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=0)
    compiled = torch.compile(op, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(h, w, b), actual, rtol=1e-5, atol=0)


@pytest.mark.parametrize("op", ["weight_sq_norm", "head_scores"])
def test_kernels_are_used(op, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the reference was called")

    monkeypatch.setattr(reference, "head_scores", refuse)
    monkeypatch.setattr(reference, "ghost_sq_norm", refuse)
    if op == "head_scores":
        kernels.head_scores(randn(2, 3), randn(2).square(), backend="triton")
    else:
        kernels.weight_sq_norm(randn(1, 2, 9), randn(1, 1, 2, 9), "triton")


def test_float64_stays_float64():
    a, g = randn(2, 3, 4).double(), randn(2, 2, 3, 5).double()
    assert kernels.weight_sq_norm(a, g).dtype == torch.float64
    assert_close_relative(kernels.weight_sq_norm(a, g), linear_oracle(a, g), 1e-14)
    with pytest.raises(TypeError, match="must be float32, float16 or bfloat16 for a Triton"):
        kernels.direct_sq_norm(a, g, "triton")


def test_a_ghost_of_one_cotangent():
    a, g = randn(2, 3, 9), randn(2, 1, 3, 8)
    assert_close_relative(kernels.ghost_sq_norm(a, g)[0], linear_oracle(a, g), 1e-5)


def test_the_face_keeps_its_functions():
    # a kernel's module of the same name would take an operation's place in the package
    kernels.head_scores(randn(1, 2), randn(1).square(), backend="triton")
    assert all(callable(getattr(kernels, name)) for name in kernels.__all__)
    assert kernels.weight_sq_norm is _dispatch.weight_sq_norm


# T, I, O and K of layers, and milliseconds of both forms on an NVIDIA H200 in bfloat16.
TIMED = [
    ((256, 576, 128, 10), 0.348, 0.447),
    ((256, 1152, 128, 10), 0.345, 0.681),
    ((197, 768, 768, 10), 0.185, 0.349),
    ((197, 768, 3072, 10), 0.356, 1.103),
    ((197, 3072, 768, 10), 0.270, 1.140),
    ((512, 768, 3072, 10), 0.312, 0.415),
]


@pytest.mark.parametrize("shape, ghost, direct", TIMED)
def test_kernels_take_the_form_that_was_faster(shape, ghost, direct):
    assert choose_tiled_form(*shape, False) == ("ghost" if ghost < direct else "direct")


@pytest.mark.parametrize(
    "shape, ieee, form",
    [
        ((1, 512, 10, 10), False, "closed form"),
        ((1024, 576, 64, 10), False, "direct"),
        ((196, 256, 1024, 10), False, "direct"),  # by counting: ghost
        ((16, 4608, 512, 10), False, "ghost"),
        ((16, 4608, 512, 10), True, "ghost"),
        ((197, 768, 3072, 10), True, "direct"),  # Grams are slow off the matrix units
        ((49, 512, 2048, 1000), False, "ghost"),
        ((0, 3, 4, 2), False, "direct"),
        ((4, 3, 2, 0), False, "direct"),
    ],
)
def test_tiled_forms(shape, ieee, form):
    assert choose_tiled_form(*shape, ieee) == form
