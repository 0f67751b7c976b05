"""Operations that are run by other means take their arguments as PyTorch's do, options too."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.asserts import assert_exact
from tests.support.cases import Custom, linear

PLACES = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])


def places(h):
    return PLACES.expand(len(h), -1)


def unit(h):
    return torch.eye(8, dtype=h.dtype)[None]


def table(h):
    return torch.arange(128.0, dtype=h.dtype).sin()


def spots(h):
    return h.unflatten(1, (2, 2, 2))


# Of what is `[n, 8]`, numbers of the same size.
CALLS = {
    "scatter_, src": lambda h: torch.zeros_like(h).scatter_(1, places(h), src=h),
    "scatter_, by name": lambda h: torch.zeros_like(h).scatter_(dim=1, index=places(h), src=h),
    "scatter_, by place": lambda h: torch.zeros_like(h).scatter_(1, places(h), h),
    "scatter_, number": lambda h: h.clone().scatter_(1, places(h)[:, :3], 2.0),
    "scatter_, value": lambda h: h.clone().scatter_(1, places(h)[:, :3], value=2.0),
    "cdist, 1": lambda h: torch.cdist(h[:, None], unit(h), 1.0)[:, 0],
    "cdist, 3": lambda h: torch.cdist(x1=h[:, None], x2=unit(h), p=3.0)[:, 0],
    "cdist, infinity": lambda h: torch.cdist(h[:, None], unit(h), math.inf)[:, 0],
    "cdist, mode": lambda h: torch.cdist(
        h[:, None], unit(h), compute_mode="donot_use_mm_for_euclid_dist"
    )[:, 0],
    "bilinear": lambda h: F.bilinear(
        input1=h[:, :4], input2=h[:, 4:], weight=table(h).view(8, 4, 4)
    ),
    "prelu": lambda h: F.prelu(input=h, weight=torch.linspace(0, 1, 8, dtype=h.dtype)),
    "max_pool2d": lambda h: F.max_pool2d(
        input=spots(h), kernel_size=3, stride=1, padding=1
    ).flatten(1),
    "max_pool2d, indices": lambda h: F.max_pool2d(spots(h), 2, 1, 1, return_indices=True)[0][
        :, :, :2, :2
    ].flatten(1),
    "max_pool1d": lambda h: F.max_pool1d(h[None], 3, stride=1, padding=1)[0],
    "max_pool3d": lambda h: F.max_pool3d(spots(h)[None], (1, 3, 3), 1, (0, 1, 1))[0].flatten(1),
    "adaptive, largest": lambda h: F.adaptive_max_pool2d(spots(h), 2).flatten(1),
    "adaptive": lambda h: F.adaptive_avg_pool2d(spots(h), output_size=2).flatten(1),
    "where": lambda h: torch.where(condition=h > 0, input=h, other=-2 * h),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_of_features(name):
    model = Custom(
        lambda m, x: m.head(torch.tanh(CALLS[name](m.body(x)))),
        body=linear(4, 8),
        head=linear(8, 3),
    )
    assert_exact(model, torch.randn(5, 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_of_a_parameter(name):
    def forward(m, x):
        return m.head(torch.tanh(m.body(x)) @ torch.tanh(CALLS[name](m.weight)))

    model = Custom(forward, body=linear(4, 6), head=linear(8, 3))
    model.weight = nn.Parameter(torch.randn(6, 8))
    assert_exact(model, torch.randn(5, 4))
