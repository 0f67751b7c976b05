"""Losses at known labels: the float64 loop, and pools to score."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import score_pool
from tests.support import oracle

RTOL = 1e-5


def truth(model, batches, loss, keep=lambda name: True, reduction="global"):
    """Norms by one `autograd.grad` a sample, of a float64 copy called in the caller's own way."""
    model = copy.deepcopy(model).double().eval()
    named = [p for n, p in model.named_parameters() if p.requires_grad and keep(n)]
    found = []
    for batch in oracle.in_float64(batches):
        for sample in singles(batch):
            grads = torch.autograd.grad(loss(model, sample), named, allow_unused=True)
            norms = torch.stack([g.norm() for g in grads if g is not None])
            found.append(norms.sum() if reduction == "per_tensor" else norms.norm())
    return torch.stack(found).detach()


def singles(batch):
    leaves, spec = torch.utils._pytree.tree_flatten(batch)
    for i in range(len(leaves[0])):
        yield torch.utils._pytree.tree_unflatten([leaf[i : i + 1] for leaf in leaves], spec)


def score(model, batches, **options):
    return score_pool(model, batches, progress=False, **options).double()


def from_pair(loss):
    return lambda model, sample: loss(model(sample[0]), sample[1])


def classifier():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    ).eval()


def images(count=7, split=4):
    x, y = torch.randn(count, 1, 6, 6), torch.randint(0, 5, (count,))
    return [(x[:split], y[:split]), (x[split:], y[split:])]


class Given(nn.Module):
    """Returns its loss if it is given labels."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, labels=None):
        logits = self.model(x)
        return {
            "logits": logits,
            "loss": None if labels is None else F.cross_entropy(logits, labels),
        }
