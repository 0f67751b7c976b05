"""How output gradients are read: as they lie, by vectors where sizes and strides allow it."""

import pytest
import torch
from fastgradnorm_kernels import gradients

from tests.support.kernel_support import scattered

N, K, T, O = 2, 3, 12, 16


def _plain(dtype=torch.float32):
    return torch.empty(N, K, T, O, dtype=dtype)


LAYOUTS = {
    "outputs last": (_plain, False, O, 4),
    "positions last": (lambda: torch.empty(N, K, O, T).mT, True, T, 4),
    "half": (lambda: _plain(torch.float16), False, O, 8),
    "half, positions last": (lambda: torch.empty(N, K, O, T).half().mT, True, T, 4),
    "odd": (lambda: torch.empty(N, K, T, 15), False, 15, 1),
    "cut": (lambda: torch.empty(N, K, T, O + 2)[..., :O], False, O + 2, 2),
    "cut odd": (lambda: torch.empty(N, K, T, O)[..., :15], False, O, 1),
    "odd samples": (lambda: torch.empty(N, K * T * O + 1)[:, 1:].view(N, K, T, O), False, O, 1),
    "one odd sample": (lambda: torch.empty(1, K * T * O + 1)[:, 1:].view(1, K, T, O), False, O, 4),
    "one output": (lambda: torch.empty(N, K, T, 4)[..., :1], False, 4, 1),
    "one position": (lambda: torch.empty(N, K, O, 4).mT[:, :, :1], True, 4, 1),
    "shared": (lambda: torch.empty(N, 1, T, O).expand(N, K, T, O), False, O, 4),
}


@pytest.mark.parametrize("make, positions_last, stride, vector", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_are_read_as_they_lie(make, positions_last, stride, vector):
    g = make()
    found = gradients.of(g)
    assert found.g.data_ptr() == g.data_ptr()
    assert found[1:] == (positions_last, stride, vector)


@pytest.mark.parametrize("groups, vector", [(1, 4), (2, 4), (4, 4), (8, 2), (16, 1)])
def test_a_vector_stays_within_its_group(groups, vector):
    assert gradients.of(_plain(), groups).vector == vector


@pytest.mark.parametrize(
    "g",
    [
        scattered(torch.ones(N, K, T, O)),
        torch.ones(N, K, 1, 1).expand(N, K, T, O),
    ],
    ids=["scattered", "expanded"],
)
def test_what_has_no_neighbours_is_copied(g):
    found = gradients.of(g)
    assert found.g.is_contiguous()
    assert torch.equal(found.g, g)
    assert found[1:] == gradients.of(g.clone(memory_format=torch.contiguous_format))[1:]


def test_what_32_bits_do_not_reach_is_copied(monkeypatch):
    far = torch.empty(1, device="meta").as_strided((1, 1, 3, 2), (0, 0, 2**30, 1))
    copied = []
    monkeypatch.setattr(
        torch.Tensor, "contiguous", lambda g: copied.append(g) or torch.empty(g.shape)
    )
    assert gradients.of(far).stride == 2
    assert len(copied) == 1
