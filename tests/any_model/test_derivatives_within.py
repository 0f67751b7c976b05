"""Models that take a derivative of a layer, in passes where the engine takes none: logits alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative

X = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
EDGES = torch.tensor([0, 0, 1])


def attention(t):
    """By its formula: PyTorch's kernel has no second derivative from 2.15 on."""
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(t, t, t)


INNER = {
    "convolution": lambda m, t: m.conv(t),
    "frozen convolution": lambda m, t: F.conv1d(t, m.conv.weight.detach()),
    "transposed convolution": lambda m, t: m.back(t),
    "group norm": lambda m, t: F.group_norm(t, 2),
    "attention": lambda m, t: attention(t),
    "linear": lambda m, t: F.linear(t, m.layer.weight.detach()),
    "rows picked": lambda m, t: t.index_select(1, EDGES),
    "rows added up": lambda m, t: t.index_add(1, EDGES, t[:, 1:]),
    "max pool": lambda m, t: F.max_pool1d(t, 2),
    "activation": lambda m, t: F.gelu(t),
}


class _Energy(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.layer, self.head = inner, nn.Linear(8, 8), nn.Linear(8, 3)
        self.conv = nn.Conv1d(4, 4, 3).requires_grad_(False)
        self.back = nn.ConvTranspose1d(4, 4, 3).requires_grad_(False)

    def forward(self, x):
        y = torch.tanh(self.layer(x))
        force = torch.func.grad(lambda t: self.inner(self, t).sin().sum())(y)
        return self.head((y + force).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"pool": 1}, {"rtol": 1e-9}, {"params": "last_layer"}, {}])
@pytest.mark.parametrize("name", INNER)
def test_as_the_loop(name, options):
    torch.manual_seed(0)
    model, options = _Energy(INNER[name]).eval(), dict(options)
    pool = X.split(options.pop("pool", len(X)))
    last = "params" in options
    keep = (lambda name: name.startswith("head")) if last else (lambda name: True)
    exact = oracle.norms(model, oracle.ones(X)).scores("expected", keep=keep)
    assert_close_relative(score_pool(model, pool, progress=False, **options), exact, 1e-5, name)
