"""Products of recurrent layers with directions, in each form that the layers have."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import gradient_dots
from fastgradnorm._operations.table import TABLE
from tests.support.directions import dot, gradients, random_directions, size

# PyTorch's own note about LSTMs with projections.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")

LAYERS = {
    "projections": lambda: nn.LSTM(3, 5, proj_size=2, batch_first=True),
    "projections both ways": lambda: nn.LSTM(
        3, 5, num_layers=2, proj_size=2, batch_first=True, bidirectional=True
    ),
    "projections without biases": lambda: nn.LSTM(3, 5, proj_size=4, bias=False, batch_first=True),
    "long short-term memory": lambda: nn.LSTM(3, 5, num_layers=2, batch_first=True),
    "gated both ways": lambda: nn.GRU(3, 5, batch_first=True, bidirectional=True),
    "plain": lambda: nn.RNN(3, 5, nonlinearity="relu", bias=False, batch_first=True),
}


class Series(nn.Module):
    """A layer, of which outputs or last states are read."""

    def __init__(self, layer, states):
        super().__init__()
        self.layer, self.head, self.states = layer, nn.LazyLinear(4), states

    def forward(self, x):
        outputs, last = self.layer(x)
        if not self.states:
            return self.head(outputs.mean(1))
        last = torch.cat(last, -1) if isinstance(last, tuple) else last
        return self.head(last.movedim(0, 1).flatten(1))


@pytest.mark.slow
@pytest.mark.parametrize("states", [False, True], ids=["outputs", "states"])
@pytest.mark.parametrize("name", LAYERS)
def test_recurrent_layers(name, states):
    torch.manual_seed(1)
    model, x, y = Series(LAYERS[name](), states), torch.randn(5, 4, 3), torch.randint(0, 4, (5,))
    model(x)
    batches, directions = [(x[:2], y[:2]), (x[2:], y[2:])], random_directions(model.eval(), 3)
    found = gradients(model, batches, lambda m, s: F.cross_entropy(m(s[0]), s[1]))
    exact = torch.stack([torch.stack([dot(g, v) for v in directions]) for g in found])
    sizes = [torch.stack([size(each) for each in of]) for of in (found, directions)]
    room = sizes[0][:, None] * sizes[1]
    asked = {"loss": "cross_entropy", "progress": False}
    actual = gradient_dots(model, batches, directions, **asked).double()
    assert bool(((actual - exact).abs() <= 1e-5 * room).all())
    cosines = gradient_dots(model, batches, directions, cosine=True, **asked).double()
    assert float((cosines - exact / room).abs().max()) <= 2e-5


def test_operations_take_the_arguments_that_the_table_names():
    """Who binds a call by the table, and calls again with one argument replaced, relies on it."""
    checked = 0
    for func, operation in TABLE.items():
        told = {"channels_last": True} if operation.has_layout else {}
        for called, options in ((operation.form, told), (func, {})):
            try:
                signature = inspect.signature(called)
            except (TypeError, ValueError):
                continue  # a built-in one, or none
            if operation.names:
                signature.bind(*operation.names, **options)
                checked += 1
    assert checked > 10
