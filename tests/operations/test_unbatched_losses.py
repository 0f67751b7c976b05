"""Losses that PyTorch runs sample by sample under vmap: at once here, and without a warning."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import gradient_dots, score_pool
from tests.support.asserts import assert_close_relative
from tests.support.cases import linear

WEIGHTS = torch.tensor([0.5, 2.0, 1.5]).double()


def assert_norms_are_those_of_a_loop(model, loss, x, labels):
    expected = []
    for row, label in zip(x.split(1), labels.split(1), strict=True):
        grads = torch.autograd.grad(loss(model(row), label), [*model.parameters()])
        expected.append(torch.cat([grad.flatten() for grad in grads]).norm())
    found = score_pool(model, [(x, labels)], scheme="loss", loss=loss, progress=False)
    assert_close_relative(found, torch.stack(expected), 1e-9)


@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("reduction", ["batchmean", "sum"])
def test_a_student_beside_its_teacher(reduction, log_target):
    model, x = nn.Sequential(linear(4, 3), nn.LogSoftmax(1)).double(), torch.randn(4, 4).double()
    teacher = torch.randn(4, 3).double().softmax(1)
    teacher[1] = torch.tensor([1.0, 0.0, 0.0])
    teacher = (teacher + 1e-9).log() if log_target else teacher
    loss = nn.KLDivLoss(reduction=reduction, log_target=log_target)
    assert_norms_are_those_of_a_loop(model, loss, x, teacher)


@pytest.mark.parametrize("function, shape", [
    (F.kl_div, (3, 4)), (F.kl_div, (4,)), (F.kl_div, ()), (F.soft_margin_loss, (3, 4)),
    (F.multi_margin_loss, (3, 4)), (F.multi_margin_loss, (4,)), (F.multi_margin_loss, ()),
    (F.multilabel_margin_loss, (3, 4)), (F.multilabel_margin_loss, (4,)),
    (F.multilabel_margin_loss, ()),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # PyTorch's own, of kl_div
def test_losses_are_those_of_pytorch(function, shape):
    from fastgradnorm._operations.table import TABLE

    x, target = torch.randn(shape).double(), torch.rand(shape).double()
    if function is F.multi_margin_loss:
        target = torch.zeros(shape[:-1], dtype=torch.long)
    elif function is F.multilabel_margin_loss:
        target = torch.full(shape, -1) if shape == (3, 4) else torch.zeros(shape, dtype=torch.long)
    for reduction in ("none", "mean", "sum", *["batchmean"] * (function is F.kl_div)):
        found = TABLE[function].form(x, target, reduction=reduction)
        torch.testing.assert_close(found, function(x, target, reduction=reduction))
    with pytest.raises(ValueError, match="average"):
        TABLE[function].form(x, target, reduction="average")


@pytest.mark.parametrize("loss", [
    nn.MultiMarginLoss(), nn.MultiMarginLoss(2, 0.3, WEIGHTS), nn.MultiLabelMarginLoss(),
    nn.SoftMarginLoss(),
], ids=lambda loss: type(loss).__name__)  # fmt: skip
def test_losses_of_the_callers(loss):
    model, x = linear(4, 3).double(), torch.randn(4, 4).double()
    labels = torch.tensor([[2, -1, 0], [0, 1, 2], [1, 2, -1], [-1, 0, 1]])
    labels = labels.double() if isinstance(loss, nn.SoftMarginLoss) else labels
    labels = labels[:, 0].abs() if isinstance(loss, nn.MultiMarginLoss) else labels
    assert_norms_are_those_of_a_loop(model, loss, x, labels)


TRIPLETS = [{}, {"p": 1.0}, {"swap": True}, {"margin": 0.2, "reduction": "sum"}]


@pytest.mark.slow
@pytest.mark.parametrize("given", TRIPLETS, ids=str)
def test_triplets_of_one_sample(given):
    torch.manual_seed(0)
    model, three = nn.Sequential(linear(4, 3), nn.Tanh()).double(), torch.randn(3, 5, 4).double()

    def forward(model, batch):
        return tuple(model(x) for x in batch)

    expected = []
    for i in range(5):
        value = F.triplet_margin_loss(*forward(model, three[:, i : i + 1]), **given)
        grads = torch.autograd.grad(value, [*model.parameters()])
        expected.append(torch.cat([grad.flatten() for grad in grads]).norm())
    asked = {"loss": lambda o, _: nn.TripletMarginLoss(**given)(*o), "forward": forward}
    found = score_pool(model, [tuple(three)], progress=False, **asked)
    assert_close_relative(found, torch.stack(expected), 1e-9)
    ones = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    products = gradient_dots(model, [tuple(three)], ones, progress=False, **asked)
    assert bool((products.abs()[:, 0] <= found * 15**0.5).all())  # at once: without a warning


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_pairs_in_order(reduction, margin):
    from fastgradnorm._operations.table import TABLE

    torch.manual_seed(0)
    a, b = torch.randn(2, 6).double().requires_grad_()
    order = torch.randint(0, 2, (6,)) * 2 - 1
    b = torch.where(torch.arange(6) < 2, a.detach(), b)  # where it is zero but for the margin
    given = {"margin": margin, "reduction": reduction}
    made = TABLE[F.margin_ranking_loss].form(a, b, order, **given)
    plain = F.margin_ranking_loss(a, b, order, **given)
    torch.testing.assert_close(made, plain)
    found = (torch.autograd.grad(each.sum(), a, retain_graph=True)[0] for each in (made, plain))
    torch.testing.assert_close(*found)
