"""The last layer is the last layer, also where PyTorch does not show what the input becomes."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

SCALE = torch.arange(1.0, 6.0)


def head_of(given):
    return lambda m, x: 2 * m.head(m.body(given(x)).tanh())


WAYS = {
    "another class": head_of(lambda x: x.as_subclass(torch.Tensor)),
    "numpy": head_of(lambda x: torch.from_numpy(np.sin(x.numpy()))),
    "list": head_of(lambda x: torch.tensor(x.tolist(), dtype=x.dtype)),
    "weight times a constant": lambda m, x: F.linear(
        m.body(x).tanh(), m.head.weight * SCALE.to(x.dtype), m.head.bias
    ),
}


@pytest.mark.filterwarnings("ignore::fastgradnorm.SlowPathWarning")
@pytest.mark.parametrize("way", WAYS)
def test_exact(way):
    torch.manual_seed(0)
    model = Custom(WAYS[way], body=linear(4, 5), head=linear(5, 3))
    x = torch.randn(3, 4)
    expected = oracle.scores(model, oracle.ones(x), keep=lambda name: name.startswith("head"))
    found = score_pool(model, [x], params="last_layer", progress=False)
    assert_close_relative(found, expected, 1e-5)
