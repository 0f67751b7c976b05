"""Sketches of a wide layer: neither its gradient nor a table as long as it is ever in memory."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.footprint import peak_bytes
from fastgradnorm import gradient_sketch


def wide(outputs, inputs):
    """Of zeros that the system need not give memory for: a billion of them fit anywhere."""
    layer = nn.Linear(1, 1, bias=False)
    zeros = torch.from_numpy(np.zeros((outputs, inputs), np.float32))
    layer.weight = nn.Parameter(zeros)
    return layer.eval()


@pytest.mark.slow
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(
    ("outputs", "inputs"),
    [(1 << 12, 1 << 13), pytest.param(1 << 15, 1 << 15, marks=pytest.mark.slow)],
)
def test_memory_follows_widths(outputs, inputs, norms):
    torch.manual_seed(0)
    model, x = wide(outputs, inputs), torch.randn(2, inputs)
    labels = torch.tensor([0, outputs - 1])
    options = {"loss": "cross_entropy", "progress": False, "verify": False, "norms": norms}
    found = []
    peak = peak_bytes(lambda: found.append(gradient_sketch(model, [(x, labels)], 512, **options)))
    assert peak < 100 * 4 * (outputs + inputs)  # a hundredth of the weight, or less
    sketches, sizes = found[0] if norms else (found[0], None)
    # Of zero weights the posterior is even, so that the gradient is known.
    cotangent = torch.full((2, outputs), 1 / outputs, dtype=torch.float64)
    cotangent[[0, 1], labels] -= 1
    exact = torch.linalg.vector_norm(cotangent, dim=1) * x.double().norm(dim=1)
    assert bool(((sketches.norm(dim=1) / exact - 1).abs() < 4 * (6 / 512) ** 0.5).all())
    if norms:
        assert torch.allclose(sizes.double(), exact, rtol=1e-5)
