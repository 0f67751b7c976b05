"""A replay gives the numbers of its own samples, whatever PyTorch shows of how they are made."""

import numpy as np
import pytest
import torch

from tests.support.cases import Custom, linear
from tests.support.tracing import Kept, as_they_are, eager, replayed, scores  # noqa: F401


def features(m, x):
    return m.body(x).tanh()


# Calls by which the numbers of one pass become constants of its trace.
UNSEEN = {
    "as_subclass": lambda m, x: m.head(features(m, x)).as_subclass(torch.Tensor),
    "as_subclass inside": lambda m, x: m.head(features(m, x).as_subclass(torch.Tensor) * 2),
    "of the input": lambda m, x: m.head(m.body(x.as_subclass(torch.Tensor)).tanh()),
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("way", UNSEEN)
def test_other_samples_have_scores_of_their_own(monkeypatch, way, size):
    torch.manual_seed(0)
    model = Custom(UNSEEN[way], body=linear(4, 5), head=linear(5, 3))
    batches = torch.randn(6, size, 4).unbind()
    expected = as_they_are(monkeypatch, model, batches)
    assert torch.equal(scores(model, batches), expected)


@pytest.mark.slow
def test_equal_samples_tell_nothing_and_others_do(monkeypatch):
    torch.manual_seed(0)
    model = Custom(lambda m, x: m.head(features(m, x)), body=linear(4, 5), head=linear(5, 3))
    equal = [torch.ones(3, 4)] * 4
    batches = [*equal, *torch.randn(4, 3, 4)]
    expected = as_they_are(monkeypatch, model, batches)
    assert torch.equal(scores(model, equal), expected[:12])
    assert replayed() == 0
    assert torch.equal(scores(model, batches), expected)
    assert replayed() >= 1
    assert [each.reason for each in Kept.made if each.reason is not None] == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_others_are_replayed(monkeypatch, size):
    torch.manual_seed(0)
    model = Custom(lambda m, x: m.head(features(m, x)), body=linear(4, 5), head=linear(5, 3))
    batches = torch.from_numpy(np.random.default_rng(0).random((6, size, 4), np.float32)).unbind()
    expected = as_they_are(monkeypatch, model, batches)
    assert torch.equal(scores(model, batches), expected)
    assert replayed() >= 1
