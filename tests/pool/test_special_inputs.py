"""Inputs of kinds that PyTorch has few operations on."""

import pytest
import torch
from torch import nn

from fastgradnorm import ArgumentError, GradNormScorer

X = torch.randn(41, 5, generator=torch.Generator().manual_seed(0))


class Narrow(nn.Module):
    def forward(self, x):
        return x.float()


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage:UserWarning")
def test_jagged_tensors_are_told_as_where_they_come_by_themselves():
    jagged = [torch.nested.nested_tensor([*X[:2]], device="cpu") for _ in range(4)]
    with pytest.raises(ArgumentError, match="nested"):
        GradNormScorer(model_of(), progress=False).score(jagged)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    "dtype", [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_numbers_that_pytorch_hardly_computes_with(dtype, size):
    """Such as images of 16 bits, which a model makes floating point itself."""
    rows = (X.abs() * 4).to(dtype)
    model = nn.Sequential(Narrow(), model_of())
    found = GradNormScorer(model, verify="all", progress=False).score([*rows.split(size)])
    exact = GradNormScorer(model_of(), progress=False).score([rows.float()])
    assert torch.allclose(found.values, exact.values, 1e-5)
