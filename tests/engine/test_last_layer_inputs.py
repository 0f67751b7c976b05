"""The last layer is the last layer, also where PyTorch does not show what the input becomes."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

SLICE = torch.ops.aten.slice.Tensor
SCALE = torch.arange(1.0, 6.0)


def head_of(given):
    return lambda m, x: 2 * m.head(m.body(given(x)).tanh())


def written(write):
    """The head is given new memory, to a part of which the body's output is written."""

    def forward(m, x):
        y = m.body(x)
        canvas = torch.zeros(len(x), 5, dtype=x.dtype)
        write(canvas, y[:, :3])
        return m.head(torch.tanh(canvas))

    return forward


WAYS = {
    "another class": head_of(lambda x: x.as_subclass(torch.Tensor)),
    "numpy": head_of(lambda x: torch.from_numpy(np.sin(x.numpy()))),
    "list": head_of(lambda x: torch.tensor(x.tolist(), dtype=x.dtype)),
    "weight times a constant": lambda m, x: F.linear(
        m.body(x).tanh(), m.head.weight * SCALE.to(x.dtype), m.head.bias
    ),
    "written by a slice": written(lambda canvas, y: canvas[:, 1:4].copy_(y)),
    "written by a narrowed view": written(lambda canvas, y: canvas.narrow(1, 1, 3).add_(y)),
    "written by a view of a view": written(lambda canvas, y: canvas.T[1:4].sub_(y.T)),
    "written by an operator": written(lambda canvas, y: SLICE(canvas, 1, 0, 3).copy_(y)),
    "written to a column": written(lambda canvas, y: canvas.select(1, 2).add_(y[:, 0])),
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
