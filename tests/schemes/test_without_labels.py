"""Losses of samples that have no labels."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.support.losses import score


def made():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).eval()
    return model, [(torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0]))]


def test_a_sample_without_labels_mixes_nothing():
    model, ((x, y),) = made()
    left = torch.tensor([1.0, 0, 1, 1, 0])

    def loss(output, batch):
        each = F.cross_entropy(output, batch[1], reduction="none")
        return (each * batch[2]).sum() / batch[2].sum()

    found = score(
        model, [(x, y, left)], loss=loss, forward=lambda m, b: m(b[0]), on_nonfinite="keep"
    )
    assert bool(found[[0, 2, 3]].isfinite().all()) and bool(found[[1, 4]].isnan().all())
