"""Tensors of a batch that hold no samples: told from those that do, also if they are as long."""

import pytest
import torch
from torch import nn

from fastgradnorm import score_pool
from tests.support.asserts import assert_close_relative

LENGTH = 4


class Positioned(nn.Module):
    """Weighs positions by a constant `[T]` that the loader hands over."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(LENGTH, 3)

    def forward(self, x, scale):
        return self.head(x * scale)


@pytest.fixture
def pool():
    torch.manual_seed(0)
    return Positioned(), torch.randn(10, LENGTH), torch.arange(1.0, LENGTH + 1)


def batches(x, scale, *sizes):
    return [{"x": part, "scale": scale} for part in x[: sum(sizes)].split(sizes)]


def test_a_constant_counts_as_such_also_in_a_batch_as_long_as_it(pool):
    model, x, scale = pool
    plain = nn.Sequential(model.head)
    expected = score_pool(plain, [x * scale], progress=False)
    actual = score_pool(model, batches(x, scale, 6, LENGTH), progress=False)
    assert_close_relative(actual, expected, 1e-5)


def test_a_tensor_that_was_taken_for_samples_and_is_none_is_refused(pool):
    model, x, scale = pool
    with pytest.raises(ValueError, match=r"in every batch, or in none.*'scale'.*`forward="):
        score_pool(model, batches(x, scale, LENGTH, 6), verify=False, progress=False)


def test_forward_is_the_remedy_where_every_batch_is_as_long(pool):
    model, x, scale = pool
    expected = score_pool(nn.Sequential(model.head), [x[:LENGTH] * scale], progress=False)
    actual = score_pool(
        model, [x[:LENGTH]], forward=lambda model, batch: model(batch, scale), progress=False
    )
    assert_close_relative(actual, expected, 1e-5)
