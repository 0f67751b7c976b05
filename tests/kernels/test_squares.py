"""Sums of squares of wide rows, in which one number outweighs all others."""

import pytest
import torch
from fastgradnorm_kernels import bias_sq_norm, reference
from fastgradnorm_kernels.squares import sum_of_squares
from torch import nn

from fastgradnorm import naive_score_pool, score_pool

WIDTHS = [3, 255, 256, 1000, 4096, 5001, 50_257]


def outweighed(width, at=0):
    """An even posterior less the class: one large number, and small ones."""
    row = torch.full((width,), 1 / width)
    row[at] -= 1
    return row


def off(found, row):
    exact = row.double().square().sum()
    return abs(float(found.double() / exact - 1))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("at", [0, -1])
def test_small_numbers_count(width, at):
    row = outweighed(width, at)
    assert off(sum_of_squares(row), row) < 5e-7
    assert off(bias_sq_norm(row[None, None]), row) < 5e-7
    one = torch.ones(1, 1, 1)
    assert off(reference.outer_sq_norm(one, row[None, None, None]), row) < 5e-7
    matrix = reference.direct_sq_norm(one.expand(1, 2, 1), row.expand(1, 1, 2, width))
    assert off(matrix, 2 * row) < 1e-6


@pytest.mark.parametrize("width", WIDTHS)
def test_same_for_any_layout_and_leading_dimensions(width):
    rows = torch.randn(2, 3, width, dtype=torch.float64)
    exact = rows.square().sum(-1)
    torch.testing.assert_close(sum_of_squares(rows), exact)
    torch.testing.assert_close(sum_of_squares(rows.mT.contiguous().mT), exact)
    torch.testing.assert_close(torch.func.vmap(sum_of_squares)(rows), exact)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"scheme": "el2n"}, {"loss": "cross_entropy"}, {}], ids=str)
def test_many_classes(options):
    model = nn.Linear(3, 4096).eval()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    batches = [(torch.randn(2, 3), torch.tensor([0, 4095]))] if options else [torch.randn(2, 3)]
    options = {**options, "progress": False}
    exact = naive_score_pool(model.double(), _double(batches), **options)
    found = score_pool(model.float(), batches, verify=False, **options)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)


def _double(batches):
    return [(b[0].double(), b[1]) if isinstance(b, tuple) else b.double() for b in batches]
