"""Elements of a parameter that an index picks twice have the sum of two gradients."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

ORDER = np.arange(1200)
OTHER = ORDER.copy()
OTHER[500:600] = OTHER[500:600][::-1]  # where the text of an array is abridged

WAYS = {
    "rows": lambda m, x: F.linear(x, m.body.weight[[2, 0, 0, 1]]),
    "rows by numpy": lambda m, x: F.linear(x, m.body.weight[np.array([2, 0, 0, 1])]),
    "columns": lambda m, x: F.linear(x, m.body.weight[:, [0, 0, 1, 2]]),
    "rows, then a slice": lambda m, x: F.linear(x, m.body.weight[[3, 3, 0, 1, 2, 2]][:4]),
    "of a bias": lambda m, x: F.linear(x, m.body.weight, m.body.bias[[0, 0, 1, 2]]),
    "rows in another order": lambda m, x: F.linear(x, m.body.weight[[3, 2, 0, 1]]),
    "scale of a norm": lambda m, x: F.layer_norm(m.body(x), (4,), m.body.weight[[0, 0, 1, 1], 0]),
    "two long orders": lambda m, x: (
        x @ m.long[ORDER].view(4, -1)[:, :4] + x @ m.long[OTHER].view(4, -1)[:, 148:152]
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_exact(way):
    torch.manual_seed(0)
    parts = {"body": linear(4, 4), "long": nn.Parameter(torch.randn(1200)), "head": linear(4, 3)}
    model = Custom(lambda m, x: m.head(WAYS[way](m, x).tanh()), **parts)
    x = torch.randn(3, 4)
    found = score_pool(model, [x], verify=False, progress=False)
    assert_close_relative(found, oracle.scores(model, oracle.ones(x)), 1e-5)
