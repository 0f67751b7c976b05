"""Max pools as the engine runs them, against PyTorch's. With derivatives: `test_light.py`."""

import pytest
import torch
from torch import nn
from torch.func import vmap
from torch.nn import functional as F

from fastgradnorm import score_pool
from fastgradnorm._operations.pooling import max_pool
from tests.support import oracle

S = 3  # samples


@pytest.mark.parametrize(
    "kernel_size, stride, padding, dilation",
    [(2, None, 0, 1), (3, 2, 1, 1), (5, 1, 2, 1), (2, 3, 0, 1), (3, 2, 1, 2), ([3], [], [1], [1])],
)
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("batched", [False, True])
def test_max_pool_without_a_derivative(batched, dims, kernel_size, stride, padding, dilation):
    pool = getattr(F, f"max_pool{dims}d")
    x = torch.randint(-5, 0, (S, *(2,) * batched, 5, *(9, 8, 7)[:dims])).float()
    options = (kernel_size, stride, padding, dilation)
    exact = torch.stack([pool(sample, *options) for sample in x])
    calls = []

    def counted(*args):
        calls.append(args)
        return pool(*args)

    assert torch.equal(vmap(lambda x: max_pool(counted, dims, x, *options))(x), exact)
    assert not calls


@pytest.mark.parametrize(
    "x, kernel_size, padding, ceil_mode",
    [
        (torch.randn(S, 5, 7, 7), 2, 0, True),
        (torch.randn(S, 5, 7, 7), 1, 0, False),  # else the output would be the input
        (torch.randint(9, (S, 5, 7, 7)), 2, 0, False),
    ],
)
def test_max_pools_that_are_left_to_pytorch(x, kernel_size, padding, ceil_mode):
    def run(x):
        y = max_pool(torch.max_pool2d, 2, x, kernel_size, 2, padding, 1, ceil_mode)
        return y.add_(1)

    before = x.clone()
    exact = torch.max_pool2d(x, kernel_size, 2, padding, 1, ceil_mode) + 1
    assert torch.equal(vmap(run)(x), exact)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "shape, kernel_size, padding", [((5, 3, 3), 4, 0), ((5, 7, 7), 2, 2), ((2, 2, 5, 7, 7), 2, 0)]
)
def test_max_pools_that_pytorch_refuses(shape, kernel_size, padding):
    with pytest.raises(RuntimeError):
        vmap(lambda x: max_pool(F.max_pool2d, 2, x, kernel_size, None, padding))(
            torch.randn(S, *shape)
        )


class _Pools(nn.Module):
    """Calls max pools in every way there is."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.pool = nn.MaxPool2d(2, padding=1)

    def forward(self, x):
        x, _ = F.max_pool2d(self.conv(x), 3, 1, return_indices=True)
        x = self.pool(torch.max_pool2d(x, 2))
        return self.head(F.max_pool2d(x, 2, 1, 0, 1, False, False).mean((2, 3)))


@pytest.mark.parametrize("params", ["all", "last_layer"])
def test_max_pools_of_a_model(params):
    model, x = _Pools().eval(), torch.randn(S, 3, 18, 18)
    last = params == "last_layer"
    exact = oracle.scores(model, oracle.ones(x), keep=lambda name: not last or "head" in name)
    scores = score_pool(model, [x], params=params, progress=False)
    assert ((scores - exact) / exact).abs().max() <= 1e-5
