"""Scores and predictions of a pool, from one pass."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fastgradnorm import GradNormScorer, score_and_predict, score_pool

X = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))


class Counting:
    def __init__(self, size):
        self.size, self.passes = size, 0

    def __iter__(self):
        self.passes += 1
        yield from X.split(self.size)


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).eval()


@pytest.mark.parametrize("scheme", ["expected", "entropy", "expected_squared"])
@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("size", [1, 4, 9])
def test_both_are_those_of_the_model(model, scheme, params, size):
    loader = Counting(size)
    options = {"scheme": scheme, "params": params, "progress": False}
    scores, seen = score_and_predict(model, loader, **options)
    assert loader.passes == 1
    torch.testing.assert_close(scores.values, score_pool(model, [X], **options))
    best = model(X).softmax(1).detach().topk(2, 1)
    for place, (which, how) in enumerate(
        [("predicted", "confidence"), ("runner_up", "runner_up_probability")]
    ):
        assert seen[which].dtype == torch.int64
        assert torch.equal(seen[which], best.indices[:, place])
        torch.testing.assert_close(seen[how], best.values[:, place])


def test_of_labels_of_their_own(model):
    _, seen = score_and_predict(model, [X], likelihood="bernoulli", progress=False)
    best = model(X).sigmoid().detach().topk(2, 1)
    assert torch.equal(seen["predicted"], best.indices[:, 0])
    torch.testing.assert_close(seen["runner_up_probability"], best.values[:, 1])


def test_of_a_sample_without_numbers(model):
    x = X.clone()
    x[3] = float("nan")
    with pytest.warns(UserWarning, match="NaN"):
        scores, seen = score_and_predict(model, [x], on_nonfinite="warn", progress=False)
    assert scores.values[3].isnan()
    assert seen["predicted"][3] == seen["runner_up"][3] == -1
    assert seen["confidence"][3].isnan()
    assert (seen["predicted"][[0, 1, 2, 4]] >= 0).all()


def test_a_part_of_a_pool_in_its_order(model):
    loader = DataLoader(TensorDataset(X), 3)
    scores, seen = score_and_predict(model, loader, subset=4, progress=False)
    whole = model(X).argmax(1)
    assert torch.equal(seen["predicted"], whole[scores.indices])
    expected = GradNormScorer(model, subset=4, progress=False).score(loader)
    assert torch.equal(scores.indices, expected.indices)


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(model, tmp_path):
    def stopping():
        yield X[:6]
        raise InterruptedError

    options = {"checkpoint": tmp_path / "scores", "progress": False}
    with pytest.raises(InterruptedError):
        score_and_predict(model, stopping(), **options)
    scores, seen = score_and_predict(model, X.split(3), **options)
    assert torch.equal(seen["predicted"], model(X).argmax(1))
    torch.testing.assert_close(scores.values, score_pool(model, [X], progress=False))


@pytest.mark.parametrize(
    "options",
    [{"scheme": ["expected", "entropy"]}, {"loss": "cross_entropy"}, {"scheme": "el2n"}],
    ids=repr,
)
def test_what_has_no_predictions_is_refused(model, options):
    with pytest.raises(ValueError, match=r"`scheme` must be one that reads no labels"):
        score_and_predict(model, [(X, torch.zeros(9).long())], **options)


def test_a_misspelt_option(model):
    with pytest.raises(TypeError, match="temperature"):
        score_and_predict(model, [X], temprature=2.0)
