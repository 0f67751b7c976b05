"""Weight norms of bfloat16 where the processor multiplies it, against float64."""

import pytest
import torch
from fastgradnorm_kernels import _narrow, _torch_norms, reference
from fastgradnorm_kernels.geometry import Geometry

from tests.support.asserts import assert_close_relative
from tests.support.kernel_support import conv_oracle, linear_oracle

ROUNDED, EXACT = 2e-3, 1e-5


def _bfloat16(*shape):
    return torch.randn(*shape).bfloat16()


@pytest.fixture(params=[True, False], ids=["multiplies it", "does not"])
def tolerance(request, monkeypatch):
    """Of squared norms, on a processor that multiplies bfloat16 and on one that does not."""
    monkeypatch.setattr(_narrow, "_multiplies", lambda: request.param)
    return ROUNDED if request.param else EXACT


def _check(actual, exact, tolerance):
    assert actual.dtype == torch.float32
    assert_close_relative(actual, exact, tolerance)
    assert (tolerance == EXACT) == torch.allclose(actual.double(), exact, EXACT, 0)


SHAPES = {"direct": (600, 64, 40), "ghost": (130, 300, 65), "ghost, wide": (70, 256, 300)}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("layout", ["plain", "positions last"])
def test_linear(name, layout, tolerance, monkeypatch):
    T, I, O = SHAPES[name]
    form = name.split(",")[0]
    monkeypatch.setattr(_torch_norms, "choose_form", lambda *sizes: form)
    a, g = _bfloat16(2, T, I), _bfloat16(2, 3, T, O)
    if layout == "positions last":
        a, g = a.mT.contiguous().mT, g.mT.contiguous().mT
    exact = linear_oracle(a.double(), g.double())
    _check(_torch_norms.weight_sq_norm(a, g), exact, tolerance)


@pytest.mark.parametrize("form", ["direct", "patches", "pixels"])
@pytest.mark.parametrize("last", [True, False])
def test_convolutions(form, last, tolerance, monkeypatch):
    monkeypatch.setattr(_torch_norms, "_cheapest", lambda *given: form)
    x, g = _bfloat16(3, 40, 12, 11), _bfloat16(3, 2, 64, 12, 11)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
        g = g.movedim(2, -1).contiguous().movedim(-1, 2)
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    exact = conv_oracle(x.double(), g.double(), geometry, 1)
    _check(_torch_norms.conv_sq_norm(x, g, geometry, 1), exact, tolerance)


def test_inner_products_of_pixels_are_added_up_in_float32(monkeypatch):
    """49 equal ones: in bfloat16 the later sums are all rounded up."""
    monkeypatch.setattr(_narrow, "_multiplies", lambda: True)
    monkeypatch.setattr(_torch_norms, "_cheapest", lambda *given: "pixels")
    x = torch.full((1, 40, 18, 17), 1.25).bfloat16()
    g = (1 + 0.1 * torch.randn(1, 2, 64, 12, 11)).bfloat16()
    geometry = Geometry((7, 7), (1, 1), (0, 0), (1, 1))
    exact = conv_oracle(x.double(), g.double(), geometry, 1)
    assert_close_relative(_torch_norms.conv_sq_norm(x, g, geometry, 1), exact, ROUNDED)


@pytest.mark.parametrize("stride, padding", [((1, 1), (1, 1)), ((2, 1), (0, 2))])
def test_own_gradients_of_many_positions(stride, padding, monkeypatch):
    monkeypatch.setattr(_narrow, "_multiplies", lambda: True)
    monkeypatch.delattr(_narrow, "_squares")
    x = _bfloat16(2, 32, 40, 26).contiguous(memory_format=torch.channels_last)
    geometry = Geometry((3, 3), stride, padding, (1, 1))
    g = _bfloat16(2, 1, *geometry.out(x.shape[2:]), 16).movedim(-1, 2)
    actual = _torch_norms.conv_sq_norm(x, g, geometry, 1)
    _check(actual, conv_oracle(x.double(), g.double(), geometry, 1), ROUNDED)


@pytest.mark.parametrize("multiplies", [True, False])
def test_small_products_and_other_dtypes_are_as_they_were(multiplies, monkeypatch):
    monkeypatch.setattr(_narrow, "_multiplies", lambda: multiplies)
    for a, g in [
        (_bfloat16(2, 9, 20), _bfloat16(2, 3, 9, 30)),
        (_bfloat16(2, 90, 20).half(), _bfloat16(2, 3, 90, 900).half()),
        (_bfloat16(2, 90, 200), torch.randn(2, 3, 90, 100)),
    ]:
        exact = linear_oracle(a.double(), g.double())
        assert_close_relative(_torch_norms.weight_sq_norm(a, g), exact, EXACT)


@pytest.mark.parametrize("taken", [1, 0.8], ids=["all", "mostly"])
def test_terms_that_cancel_are_computed_directly(taken, monkeypatch):
    """Of the terms a hundredth is left, or a twentieth."""
    monkeypatch.setattr(_narrow, "_multiplies", lambda: True)
    monkeypatch.setattr(_torch_norms, "choose_form", lambda *sizes: "ghost")
    a = (torch.ones(1, 130, 300) + 0.1 * torch.randn(1, 130, 300)).bfloat16()
    g = _bfloat16(1, 2, 130, 65)
    g[:, 1] -= taken * g[:, 1].mean(1, keepdim=True)
    again, direct = [], reference.direct_sq_norm
    monkeypatch.setattr(
        reference, "direct_sq_norm", lambda a, g: again.append(len(a)) or direct(a, g)
    )
    exact = linear_oracle(a.double(), g.double())
    assert_close_relative(_torch_norms.weight_sq_norm(a, g), exact, ROUNDED)
    assert again == [1]
