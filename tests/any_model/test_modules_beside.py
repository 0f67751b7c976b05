"""Modules beside the model, as a teacher in a loss, that are cast or moved where they are used.

They were left with wrappers of a transform that had ended, and their next use ended the process.
"""

import copy

import pytest
import torch
from fastgradnorm_kernels.functorch import is_wrapped
from torch import nn
from torch.nn import functional as F

from fastgradnorm import score_pool

# What a user writes before the teacher is called.
WAYS = {
    "dtype": lambda teacher, x: teacher.to(x.dtype),
    "device": lambda teacher, x: teacher.to(x.device),
    "like": lambda teacher, x: teacher.to(x),
    "cpu": lambda teacher, x: teacher.cpu(),
    "type": lambda teacher, x: teacher.type(x.dtype),
    "double": lambda teacher, x: teacher.double(),
    "data": lambda teacher, x: [setattr(p, "data", p.data.to(x.dtype)) for p in _tensors(teacher)],
    "in-grad-mode": lambda teacher, x: teacher[0].weight.to(x.dtype),
}


def _tensors(module):
    return [*module.parameters(), *module.buffers()]


class Hiding(nn.Module):
    """Its frozen backbone is no child, so that it is not saved with it."""

    def __init__(self, teacher, way):
        super().__init__()
        self.body, self.hidden, self.way = nn.Linear(4, 3), [teacher], way

    def forward(self, x):
        self.way(self.hidden[0], x)
        with torch.no_grad():
            known = self.hidden[0](x.to(self.hidden[0][0].weight.dtype)).to(x.dtype)
        return self.body(x) * known.sigmoid()


def make(frozen):
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).eval()
    return teacher.requires_grad_(not frozen), nn.Linear(4, 3).eval(), torch.randn(6, 4)


def of_teacher(teacher, z, x, way=None):
    with torch.no_grad():
        if way is not None:
            way(teacher, x)
        known = teacher(x.to(teacher[0].weight.dtype)).to(z.dtype)
    return F.kl_div(z.log_softmax(-1), known.softmax(-1), reduction="batchmean")


def norms(model, x, loss):
    found = []
    for row in x.split(1):
        gradients = torch.autograd.grad(loss(model(row), row), list(model.parameters()))
        found.append(torch.stack([g.norm() for g in gradients]).norm())
    return torch.stack(found)


def assert_plain(teacher, before, called):
    """Its tensors are no wrappers; parameters are as they were, but for a cast of its own call."""
    for tensor in _tensors(teacher):
        assert not is_wrapped(tensor)
    for now, then in zip(teacher.parameters(), before.parameters(), strict=True):
        assert called or now.dtype == then.dtype
        assert torch.equal(now, then.to(now.dtype))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("verify", [True, False])
def test_a_teacher_that_a_loss_casts(way, frozen, verify):
    teacher, model, x = make(frozen)
    before = copy.deepcopy(teacher)
    expected = norms(model, x, lambda z, row: of_teacher(before, z, row))
    found = score_pool(
        model,
        [(x, torch.zeros(6))],
        loss=lambda z, batch: of_teacher(teacher, z, batch[0], way),
        verify=verify,
        progress=False,
    )
    assert torch.allclose(found, expected, rtol=1e-5)
    assert_plain(teacher, before, called=verify)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("verify", [True, False])
def test_a_backbone_that_is_no_child(way, verify):
    teacher, _, x = make(frozen=True)
    before = copy.deepcopy(teacher)
    model = Hiding(teacher, lambda module, x: None).eval()
    labels = torch.arange(6) % 3
    loss = F.cross_entropy
    pairs = zip(x.split(1), labels.split(1), strict=True)
    expected = torch.cat([norms(model, row, lambda z, _, y=y: loss(z, y)) for row, y in pairs])
    model.way = way
    options = {"loss": "cross_entropy", "verify": verify, "progress": False}
    assert torch.allclose(score_pool(model, [(x, labels)], **options), expected, rtol=1e-5)
    assert_plain(teacher, before, called=verify)
