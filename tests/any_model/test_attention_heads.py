"""Attention whose queries, keys and values have numbers of heads of their own, or none that fit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgradnorm import score_pool
from tests.support.asserts import assert_exact
from tests.support.cases import linear

T, D = 5, 4


class Heads(nn.Module):
    """Of a number for each, and rows of values of a length."""

    def __init__(self, queries, keys, values, width=D, mask=None, **options):
        super().__init__()
        self.counts, self.mask, self.options = (queries, keys, values), mask, options
        sizes = queries * D, keys * D, values * width
        self.parts = nn.ModuleList(linear(8, size) for size in sizes)
        self.head = linear(max(self.counts) * width, 3)

    def forward(self, x):
        q, k, v = (
            part(x).unflatten(-1, (count, -1)).transpose(1, 2)
            for part, count in zip(self.parts, self.counts, strict=True)
        )
        mask = None if self.mask is None else self.mask(x)
        out = F.scaled_dot_product_attention(q, k, v, mask, **self.options)
        return self.head(out.transpose(1, 2).flatten(2).mean(1))


def by_distance(x):
    steps = torch.arange(T, dtype=x.dtype)
    return -(steps[:, None] - steps).abs()


def of_each_head(x):
    return torch.linspace(-1, 1, 4 * T * T, dtype=x.dtype).view(1, 4, T, T).sin()


GROUPED = {"enable_gqa": True}
MODELS = {
    "grouped": lambda: Heads(4, 2, 2, **GROUPED),
    "keys grouped": lambda: Heads(4, 2, 4, **GROUPED),
    "values grouped": lambda: Heads(4, 4, 2, **GROUPED),
    "grouped otherwise": lambda: Heads(4, 1, 2, **GROUPED),
    "grouped, causal": lambda: Heads(4, 2, 1, is_causal=True, **GROUPED),
    "grouped, wider values": lambda: Heads(4, 2, 4, 6, **GROUPED),
    "grouped, masked": lambda: Heads(4, 2, 4, mask=by_distance, **GROUPED),
    "one key": lambda: Heads(4, 1, 4),
    "one value": lambda: Heads(4, 4, 1),
    "one of both": lambda: Heads(4, 1, 1),
    "one query": lambda: Heads(1, 4, 4),
    "one of both, a mask of each head": lambda: Heads(4, 1, 1, mask=of_each_head),
    "padding": lambda: Heads(4, 1, 4, mask=lambda x: x[:, None, None, :, 0] > -1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_exact(name):
    assert_exact(MODELS[name](), torch.randn(6, T, 8))


@pytest.mark.parametrize("counts", [(4, 3, 4), (4, 4, 3), (3, 2, 2)])
@pytest.mark.parametrize("options", [{}, GROUPED])
def test_heads_that_do_not_fit_are_told_by_pytorch(counts, options):
    model = Heads(*counts, **options)
    with pytest.raises(RuntimeError), torch.no_grad():
        model(torch.randn(2, T, 8))
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)must match|size of tensor|heads"):
        score_pool(model, [torch.randn(6, T, 8)], progress=False)
