"""What was found is kept with the scores, also over processes and ranks, and told once."""

import warnings

import pytest
import torch
from torch import nn

from fastgradnorm import DoubtfulScoresWarning, GradNormScorer
from tests.support.cases import MLP


class Squashed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = MLP()

    def forward(self, x):
        return self.body(x).softmax(-1)


@pytest.fixture
def scorer():
    return lambda **options: GradNormScorer(Squashed(), scheme="entropy", progress=False, **options)


def pool():
    return torch.randn(24, 10, generator=torch.Generator().manual_seed(0)).split(4)


def told(caught):
    return [w for w in caught if w.category is DoubtfulScoresWarning]


@pytest.mark.slow
def test_once_a_run(scorer):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = scorer().score(pool()).provenance["findings"]
        assert len(told(caught)) == 1
        list(scorer().stream(pool()))
        assert len(told(caught)) == 2
        scorer().score_batch(pool()[0])
        assert len(told(caught)) == 3
    assert [each["kind"] for each in found] == ["probabilities"]
    assert {*found[0]} == {"kind", "message", "level"}


def test_a_run_that_goes_on_keeps_what_was_found(tmp_path, scorer):
    path, model = tmp_path / "run", Squashed()

    def made():
        return GradNormScorer(model, scheme="entropy", progress=False, checkpoint=path)

    class Stops(Exception):
        pass

    def stopping():
        for i, batch in enumerate(pool()):
            if i == 3:
                raise Stops
            yield batch

    with pytest.warns(DoubtfulScoresWarning), pytest.raises(Stops):
        made().score(stopping())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtfulScoresWarning)
        rest = made().score(pool())
    assert [each["kind"] for each in rest.provenance["findings"]] == ["probabilities"]
    again = made().score(pool())  # finished: nothing is run, nothing warned of
    assert again.provenance["findings"] == rest.provenance["findings"]
    assert torch.equal(again.values, rest.values)


def test_the_same_bits_with_and_without(scorer):
    """To look on changes no score."""
    model, x = MLP(), [torch.randn(9, 10), torch.randn(9, 10)]
    looked = GradNormScorer(model, progress=False).score(x).values
    assert torch.equal(GradNormScorer(model, progress=False, verify=False).score(x).values, looked)


def test_the_caller_s_model_and_random_numbers_stay(scorer):
    model = MLP()
    model.train()
    before = torch.get_rng_state()
    GradNormScorer(model, progress=False).score([torch.ones(3, 10)])
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
