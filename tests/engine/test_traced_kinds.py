"""What a traced pass depends on beside the numbers of its samples: another one is not replayed."""

import dataclasses

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer
from tests.support.tracing import as_they_are, eager, replayed, scores  # noqa: F401

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))


class Either(nn.Module):
    """Of two arguments, or of what holds a tensor and says what is to be done with it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, a=None, b=None):
        return self.layer(a) if b is None else self.layer(b) * 3

    def held(self, batch):
        x = batch["x"] if isinstance(batch, dict) else batch.x
        return self.layer(x) * (3 if batch.mode else 1)


@dataclasses.dataclass
class Holding:
    x: torch.Tensor
    mode: object


class Mapping(dict):
    def __init__(self, mode):
        super().__init__(x=X)
        self.mode = mode


def held(model, batch):
    return model.held(batch)


KINDS = {
    "keywords": ({"a": X}, {"b": X}, None),
    "an attribute": (Holding(X, False), Holding(X, True), held),
    "an attribute of a mapping": (Mapping(False), Mapping(True), held),
    "equal numbers of another kind": (
        Holding(X, 1),
        Holding(X, True),
        lambda model, batch: model.layer(batch.x) * (3 if batch.mode is True else 1),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_batches_that_differ_beside_their_tensors_have_traces_of_their_own(monkeypatch, name):
    first, second, forward = KINDS[name]
    model, batches = Either().eval(), [*[first] * 4, *[second] * 4]
    expected = as_they_are(monkeypatch, model, batches, forward=forward)
    assert torch.equal(scores(model, batches, forward=forward), expected)
    assert replayed() >= 2


class Gained(nn.Module):
    """By a number that Python takes from a tensor of its own."""

    def __init__(self, take):
        super().__init__()
        self.layer, self.take = nn.Linear(4, 3), take
        self.gain = nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.register_buffer("shift", torch.tensor(1.0))

    def forward(self, x):
        return self.layer(x) * self.take(self)


TAKING = {
    "a parameter's item": lambda model: model.gain.item(),
    "a parameter as a float": lambda model: float(model.gain),
    "a buffer as a float": lambda model: float(model.shift),
    "a condition": lambda model: 1.0 if model.gain > 3 else 5.0,
    "a comparison": lambda model: 1.0 if torch.equal(model.gain, 2 * model.shift) else 5.0,
    "what is made of it": lambda model: (2 * model.gain).item(),
}


@pytest.mark.slow
@pytest.mark.parametrize("take", TAKING.values(), ids=TAKING)
def test_numbers_taken_from_the_models_own_tensors_are_followed(take):
    model = Gained(take).eval()
    stream = GradNormScorer(model, latency=0, verify=False).stream([X] * 5)
    for _ in range(4):
        next(stream)
    with torch.no_grad():
        model.gain.mul_(3)
        model.shift.mul_(2)
    assert torch.equal(next(stream), scores(model, [X]))
