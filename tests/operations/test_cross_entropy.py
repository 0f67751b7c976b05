"""Cross-entropy of probabilities, written so that its gradient keeps its digits: the same loss."""

import pytest
import torch
from torch.nn import functional as F

from fastgradnorm._operations.losses import cross_entropy

SHAPES = [(5,), (3, 5), (3, 5, 4), (2, 5, 3, 3), (4, 2)]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_that_of_pytorch(shape, reduction, weighted):
    torch.manual_seed(0)
    z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    q = torch.rand(shape, dtype=torch.float64)
    if len(shape) > 1:
        q[0], q[1] = 0, torch.where(q[1] == q[1].amax(0), 1.0, 0.0)
    q.requires_grad_()
    classes = shape[min(1, len(shape) - 1)]
    weight = torch.rand(classes, dtype=torch.float64) if weighted else None
    made = cross_entropy(z, q, weight=weight, reduction=reduction)
    plain = F.cross_entropy(z, q, weight=weight, reduction=reduction)
    torch.testing.assert_close(made, plain)
    for wanted in (z, q):
        a = torch.autograd.grad(made.sum(), wanted, retain_graph=True)
        b = torch.autograd.grad(plain.sum(), wanted, retain_graph=True)
        torch.testing.assert_close(a, b)


def test_second_derivatives():
    torch.manual_seed(0)
    q, z = torch.rand(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    a = torch.autograd.functional.hessian(lambda z: cross_entropy(z, q), z)
    b = torch.autograd.functional.hessian(lambda z: F.cross_entropy(z, q), z)
    torch.testing.assert_close(a, b)


def test_what_is_left_to_pytorch():
    z, q = torch.randn(2, 3), torch.rand(2, 3)
    assert cross_entropy(z, q, label_smoothing=0.1) is None
    assert cross_entropy(z, q.double()) is None
    assert cross_entropy(z[:, :1], q[:, :1]) is None
