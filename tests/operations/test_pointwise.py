"""Convolutions that see one pixel, with the channels last in memory: products, and exact."""

import pytest
import torch
from torch import nn

from fastgradnorm import naive_score_pool, score_pool
from fastgradnorm._operations import folded_convolutions


class _Pixels(nn.Module):
    def __init__(self, stride=1, groups=1, padding=0, bias=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        options = {"stride": stride, "groups": groups, "padding": padding, "bias": bias}
        self.point = nn.Conv2d(8, 16, 1, **options)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.point(self.stem(x).relu()).relu()
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(x.square().mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, is_product",
    [
        ({}, True),
        ({"bias": False}, True),
        ({"stride": 2}, False),
        ({"groups": 2}, False),
        ({"padding": 1}, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("scheme", ["expected", "entropy"])
def test_pointwise(options, is_product, scheme, monkeypatch):
    torch.manual_seed(0)
    model, x = _Pixels(**options).eval(), torch.randn(5, 3, 12, 12)
    used = set()
    product = folded_convolutions._product

    def counted(rows, weight, bias):
        used.add(tuple(sorted(weight.shape)))
        return product(rows, weight, bias)

    monkeypatch.setattr(folded_convolutions, "_product", counted)
    scores = score_pool(model, [x], scheme=scheme, progress=False)
    exact = naive_score_pool(model.double(), [x.double()], scheme=scheme)
    torch.testing.assert_close(scores.double(), exact.double(), rtol=1e-5, atol=0)
    assert (4, 16) in used
    assert ((8, 16) in used) == is_product
