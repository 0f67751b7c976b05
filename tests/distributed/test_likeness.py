"""Ranks compare models and samples by digests: whatever differs is told apart."""

from collections import UserDict

import numpy as np
import pytest
import torch

from fastgradnorm._pool.identity import likeness, tensor_digests
from tests.support import pools

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_that_differ_are_told_apart(dtype):
    ones, zeros = torch.ones(3, 4, dtype=dtype), torch.zeros(3, 4, dtype=dtype)
    mixed = ones.clone()
    mixed[1] = zeros[1]
    samples = [ones, zeros, mixed, mixed.flip(0)[:2], mixed.roll(1, 0), mixed.T, ones[0], ones[:0]]
    assert len({*map(str, map(likeness, samples))}) == len(samples)
    assert likeness(mixed.T) == likeness(mixed.T.contiguous())


def test_samples_of_every_kind():
    sample = {"x": [np.ones(2), torch.ones(())], "name": "a", "n": 1, "none": None}
    assert len(likeness(sample)) == 5
    assert likeness(UserDict(sample)) == likeness(sample)
    for key, other in {"x": [np.ones(2), torch.zeros(())], "name": "b", "n": 2, "none": 0}.items():
        assert likeness({**sample, key: other}) != likeness(sample)


def test_things_without_a_plain_value_are_alike():
    """Their text may hold an address."""
    assert likeness([object()]) == likeness([object()]) == ["object"]


def test_models():
    first, same, other = pools.normed(0.0), pools.normed(0.0), pools.normed(1.0)
    assert tensor_digests(first) == tensor_digests(same)
    assert tensor_digests(first)[0] == tensor_digests(other)[0]
    differing = {k for k, v in tensor_digests(first)[1].items() if tensor_digests(other)[1][k] != v}
    assert differing == {"1.running_mean"}
    with torch.no_grad():
        same[0].weight.view(-1)[[0, 1]] = same[0].weight.view(-1)[[1, 0]]
    assert tensor_digests(first)[0] != tensor_digests(same)[0]
