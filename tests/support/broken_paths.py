"""Models for tests that break a private path of PyTorch, and how they are told to be exact."""

import warnings

import torch
from fastgradnorm_kernels.proof import SlowPathWarning
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from tests.support.asserts import assert_exact
from tests.support.cases import Custom, linear, perturb


def assert_exact_without(path, model, x):
    """Exact for every scheme, warned of once, and scored without the loop over samples."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_exact(model, x)
    slow = [str(w.message) for w in caught if issubclass(w.category, SlowPathWarning)]
    assert len(slow) == 1, slow
    assert f"`{path}`" in slow[0]
    assert "exact" in slow[0]


def missing(*args, **kwargs):
    raise AttributeError("this PyTorch has no such name")


def heads(q, k, v, **options):
    return F.scaled_dot_product_attention(q, k, v, **options)


def attending(**options):
    """Queries, keys and values of two heads from one layer."""

    def forward(m, x):
        q, k, v = m.body(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return m.head(heads(q, k, v, **options).transpose(1, 2).flatten(2).mean(1))

    return Custom(forward, body=linear(8, 24), head=linear(8, 3))


def convolutional():
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), nn.Flatten()]
    return perturb(nn.Sequential(*layers, nn.Linear(54, 3))).eval()


def checkpointed(reentrant, twice=False):
    def forward(m, x):
        x = checkpoint(m.first, x, use_reentrant=reentrant, preserve_rng_state=False)
        return m.head(torch.tanh(checkpoint(m.first, x, use_reentrant=reentrant) if twice else x))

    return Custom(forward, first=linear(4, 4), head=linear(4, 3))


def unchecked(model, twice):
    """The same model without checkpoints."""

    def forward(m, x):
        x = m.first(x)
        return m.head(torch.tanh(m.first(x) if twice else x))

    return Custom(forward, first=model.first, head=model.head)


def normalised():
    layer = parametrizations.weight_norm(linear(4, 5))
    return Custom(lambda m, x: m.head(torch.tanh(m.layer(x))), layer=layer, head=linear(5, 3))


def frozen_front():
    """Frozen layers before and behind trained ones, in which light functions compute."""
    model = convolutional()
    for i in (0, 1, 4):
        model[i].requires_grad_(False)
    return model
