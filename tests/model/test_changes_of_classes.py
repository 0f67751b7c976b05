"""What an object or a class gets of its own, while until then its class or a base said it."""

import functools
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fastgradnorm import DoubtfulScoresWarning, score_pool

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))


class Kind:
    gain, called = 1.0, 0

    def __call__(self, model, batch):
        return model(batch) * self.gain

    def times(self, model, batch):
        return model(batch) * self.twice()

    def twice(self):
        return 2 * self.gain


class Below(Kind):
    """Of whose class nothing is said."""


@dataclass
class Config:
    name: str = "some"
    gain = 1.0  # no field, for it has no type


class Counting(Kind):
    def __call__(self, model, batch):
        self.called += 1  # an attribute of its own from the first call on
        return model(batch) * self.gain


def by_keyword(model, batch, kind):
    return model(batch) * kind.gain


def by_closure(kind):
    return lambda model, batch: model(batch) * kind.gain


FORWARD = {
    "called": lambda kind: kind,
    "method": lambda kind: kind.times,
    "partial": lambda kind: functools.partial(by_keyword, kind=kind),
    "closure": by_closure,
}


class Model(nn.Module):
    gain = 1.0

    def __init__(self, config=None):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.config = nn.Linear(4, 5), nn.Linear(5, 3), config

    def forward(self, x):
        gain = self.gain if self.config is None else self.config.gain
        return self.head(torch.tanh(self.body(x))) * gain * self.factor()

    def factor(self):
        return 1.0


class Derived(Model):
    pass


def pool(change):
    """Batches, of which the last come after a change."""
    for i in range(0, 12, 2):
        if i == 8:
            change()
        yield X[i : i + 2]


def score(model, change, **options):
    return score_pool(model, pool(change), progress=False, verify=False, latency=0, **options)


@pytest.mark.parametrize("kind", [Kind, Below, Counting])
@pytest.mark.parametrize("way", FORWARD)
def test_an_objects_own(kind, way):
    one = kind()
    with pytest.warns(DoubtfulScoresWarning, match=r"gain`.* is another"):
        score(Model(), lambda: setattr(one, "gain", 2.0), forward=FORWARD[way](one))


@pytest.mark.parametrize("kind", [Config, Kind, Below])
def test_of_a_models_object(kind):
    config = kind()
    with pytest.warns(DoubtfulScoresWarning, match=r"`model.config.gain` is another"):
        score(Model(config), lambda: setattr(config, "gain", 2.0))


@pytest.mark.parametrize("where", [Kind, Below])
@pytest.mark.parametrize("way", FORWARD)
def test_an_objects_class(where, way, monkeypatch):
    def change():
        monkeypatch.setattr(where, "gain", 2.0, raising=False)

    with pytest.warns(DoubtfulScoresWarning, match=r"gain`.* is another"):
        score(Model(), change, forward=FORWARD[way](Below()))


@pytest.mark.parametrize("where", [Model, Derived])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gain", 2.0),
        ("factor", lambda self: 3.0),
        ("forward", lambda self, x: self.head(self.body(x))),
    ],
)
def test_a_models_class(where, name, value, monkeypatch):
    def change():
        monkeypatch.setattr(where, name, value, raising=False)

    with pytest.warns(DoubtfulScoresWarning, match=rf"{name}`.* is another"):
        score(Derived(), change)


@pytest.mark.parametrize("kind", [Kind, Below, Counting])
@pytest.mark.parametrize("way", FORWARD)
def test_nothing_is_told_of_what_stays(kind, way):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score(Derived(Config()), lambda: None, forward=FORWARD[way](kind()))
