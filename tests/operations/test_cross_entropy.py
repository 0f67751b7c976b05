"""Cross-entropy of probabilities, written so that its gradient keeps its digits: the same loss."""

import pytest
import torch
from torch.nn import functional as F

from fastgradnorm import mean_gradient
from fastgradnorm._operations.losses import cross_entropy

SHAPES = [(5,), (3, 5), (3, 5, 4), (2, 5, 3, 3), (4, 2)]


def forms(test):
    """Run for all shapes and options."""
    options = {"reduction": ["mean", "sum", "none"], "shape": SHAPES, "weighted": [False, True]}
    for name, values in {**options, "smoothing": [0.0, 0.2, 1.0]}.items():
        test = pytest.mark.parametrize(name, values, ids=str)(test)
    return test


def given(shape, reduction, weighted, smoothing):
    classes = shape[min(1, len(shape) - 1)]
    weight = torch.rand(classes, dtype=torch.float64) if weighted else None
    return {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}


@forms
def test_it_is_that_of_pytorch(shape, reduction, weighted, smoothing):
    torch.manual_seed(0)
    z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    q = torch.rand(shape, dtype=torch.float64)
    if len(shape) > 1:
        q[0], q[1] = 0, torch.where(q[1] == q[1].amax(0), 1.0, 0.0)
    q.requires_grad_()
    options = given(shape, reduction, weighted, smoothing)
    made, plain = cross_entropy(z, q, **options), F.cross_entropy(z, q, **options)
    torch.testing.assert_close(made, plain)
    for wanted in (z, q):
        a = torch.autograd.grad(made.sum(), wanted, retain_graph=True)
        b = torch.autograd.grad(plain.sum(), wanted, retain_graph=True)
        torch.testing.assert_close(a, b)


@forms
def test_of_class_indices(shape, reduction, weighted, smoothing):
    torch.manual_seed(0)
    z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    classes = shape[min(1, len(shape) - 1)]
    label = torch.randint(0, classes, (*shape[:1], *shape[2:]) if len(shape) > 1 else ())
    if len(shape) > 1:
        label.flatten()[0] = -100
    options = given(shape, reduction, weighted, smoothing)
    made, plain = cross_entropy(z, label, **options), F.cross_entropy(z, label, **options)
    torch.testing.assert_close(made, plain)
    found = (torch.autograd.grad(each.sum(), z)[0] for each in (made, plain))
    torch.testing.assert_close(*found)


@pytest.mark.slow
def test_means_of_smoothed_labels_are_made_at_once():
    torch.manual_seed(0)
    model, x, y = torch.nn.Linear(3, 4), torch.randn(5, 3), torch.tensor([0, 3, -100, 1, 1])
    given = {"weight": torch.rand(4), "label_smoothing": 0.2, "ignore_index": 3}
    loss = torch.nn.CrossEntropyLoss(**given, reduction="sum")
    whole = torch.nn.CrossEntropyLoss(**given)
    for each, kept in ((loss, y.clamp_min(0)), (whole, y % 3)):
        found = mean_gradient(model, [(x, kept)], loss=each, progress=False)
        total = sum(each(model(x[i : i + 1]), kept[i : i + 1]) for i in range(5)) / 5
        exact = torch.autograd.grad(total, [*model.parameters()])
        for a, b in zip(found.values(), exact, strict=True):
            torch.testing.assert_close(a, b)


def test_second_derivatives():
    torch.manual_seed(0)
    q, z = torch.rand(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    a = torch.autograd.functional.hessian(lambda z: cross_entropy(z, q), z)
    b = torch.autograd.functional.hessian(lambda z: F.cross_entropy(z, q), z)
    torch.testing.assert_close(a, b)


def test_what_is_left_to_pytorch():
    z, q = torch.randn(2, 3), torch.rand(2, 3)
    assert cross_entropy(z, q, label_smoothing=1.1) is None
    assert cross_entropy(z, q.double()) is None
    assert cross_entropy(z[:, :1], q[:, :1]) is None
