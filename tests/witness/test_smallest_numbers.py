"""Samples that are all but sure: scores at the end of what float32 holds are no disagreement."""

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, VerificationError
from fastgradnorm._engine import Engine

SCHEMES = ["expected", "expected_squared", "entropy"]
# Logits that are so far ahead: chances of the other classes from 1e-17 to 1e-45, and their squares.
FAR = torch.arange(40.0, 104.0, 1.0)


class Scaled(nn.Module):
    """Cosines of directions, as of heads with an angular margin."""

    def __init__(self):
        super().__init__()
        self.directions = nn.Parameter(torch.eye(3, 8))

    def forward(self, x):
        cosines = nn.functional.normalize(x) @ nn.functional.normalize(self.directions).T
        return 64 * cosines


def linear():
    model = nn.Linear(8, 3)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3, 8))
        model.bias.zero_()
    return model


def deep():
    return nn.Sequential(nn.Linear(8, 8), nn.Identity(), linear())


def inputs(kind):
    generator = torch.Generator().manual_seed(0)
    x = 0.1 * torch.randn(len(FAR), 8, generator=generator)
    x[:, 0] += FAR if kind is not Scaled else FAR / 20
    return x


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fastgradnorm.DoubtfulScoresWarning")
@pytest.mark.parametrize("kind", [linear, deep, Scaled])
@pytest.mark.parametrize("reduction", ["global", "per_tensor"])
@pytest.mark.parametrize("params", ["all", "last_layer"])
def test_all_are_verified(kind, reduction, params):
    torch.manual_seed(0)
    if kind is Scaled and params == "last_layer":
        pytest.skip("no layer makes its logits")
    model, x = kind().eval(), inputs(kind)
    if kind is deep:
        with torch.no_grad():
            model[0].weight.copy_(torch.eye(8))
    options = {"scheme": SCHEMES, "reduction": reduction, "params": params, "progress": False}
    scores = GradNormScorer(model, verify="all", **options).score([x])
    assert scores["expected"].provenance["verified"]["scores"] == len(x)
    assert float(scores["expected"].values.min()) < 1e-25


@pytest.mark.slow
def test_a_score_that_is_half_of_what_it_should_be_is_told(monkeypatch):
    """Where float32 holds it: down to where chances do."""
    score = Engine.score

    def halved(self, *args, **kwargs):
        found = score(self, *args, **kwargs)
        if "expected" in found.scores:  # else of the engine's look at itself
            found.scores["expected"].mul_(0.5)
        return found

    monkeypatch.setattr(Engine, "score", halved)
    x = inputs(linear)[:35]
    for row in x.split(1):
        with pytest.raises(VerificationError, match="the score by `expected`"):
            GradNormScorer(linear(), verify="all", progress=False).score([row])
