"""Models whose `eval()` leaves some modules in training mode: what they do then is what counts."""

import functools
import types
import warnings

import pytest
import torch
from torch import nn

from fastgradnorm import UnsupportedModelError, naive_score_pool, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Dropout(nn.Dropout):
    """Monte Carlo dropout."""

    def train(self, mode=True):
        return super().train(True)


class Deaf(nn.Sequential):
    def train(self, mode=True):
        return self


class DeafToEval(nn.Sequential):
    def eval(self):
        return self


class KeepsDropout(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.training = True
        return self


class Frozen(nn.BatchNorm1d):
    """Stays in eval mode, whatever is asked for."""

    def train(self, mode=True):
        return super().train(False)


class Doubling(nn.Module):
    """Another function in training mode, in which it stays."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def train(self, mode=True):
        self.layer.train(mode)
        self.training = True
        return self

    def forward(self, x):
        return self.layer(x).sin() if self.training else self.layer(x)


class Freezing(nn.Sequential):
    """As backbones do that freeze their first stages, and adapters that merge their weights."""

    def train(self, mode=True):
        super().train(mode)
        self[0].requires_grad_(False)
        if not mode:
            self[0].weight.data += 1
        return self


def bound(model):
    def train(self, mode=True):
        nn.Module.train(self, mode)
        self[1].training = True
        return self

    model.train = types.MethodType(train, model)
    return model


def by_partial(model):
    def train(self, mode=True):
        self[1].training = True
        return self

    model.eval = functools.partial(train, model)
    return model


def layers(dropout=nn.Dropout, kind=nn.Sequential):
    torch.manual_seed(0)
    return kind(nn.Linear(4, 4), dropout(0.5), nn.Tanh(), nn.Linear(4, 3))


RANDOM = {
    "the module": lambda: layers(Dropout),
    "the model": lambda: layers(kind=Deaf),
    "its eval": lambda: layers(kind=DeafToEval),
    "some of its modules": lambda: layers(kind=KeepsDropout),
    "a method of the object": lambda: bound(layers()),
    "a partial": lambda: by_partial(layers()),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", RANDOM)
def test_dropout_that_goes_on_is_refused_by_name(name, verify):
    model = RANDOM[name]()
    model.eval()
    before = [m.training for m in model.modules()]
    with pytest.raises(UnsupportedModelError, match=r"`model.1` \(\w+\) draws random numbers"):
        score_pool(model, [X], verify=verify, progress=False)
    with pytest.raises(UnsupportedModelError, match="draws random numbers"):
        naive_score_pool(model, [X], progress=False)
    assert [m.training for m in model.modules()] == before


def test_norms_that_stay_in_training_mode_mix_samples():
    class Norm(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(True)

    with pytest.raises(UnsupportedModelError, match=r"`model.1` .*mixes samples"):
        score_pool(layers(lambda p: Norm(4)), [X], progress=False)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize(
    "make", [lambda: layers(lambda p: Frozen(4)), lambda: layers(lambda p: Doubling())],
    ids=["frozen", "another function"],
)  # fmt: skip
def test_what_the_model_does_after_its_own_eval_is_scored(make, start, verify):
    model = make()
    for module in model.modules():
        module.training = start
    before = [m.training for m in model.modules()]
    found = score_pool(model, [X], verify=verify, scheme="entropy", progress=False)
    assert [m.training for m in model.modules()] == before
    assert_close_relative(found, oracle.scores(model.eval(), oracle.ones(X), "entropy"), 1e-5)


def test_nothing_of_the_callers_is_changed_by_asking():
    model = layers(lambda p: nn.Identity(), Freezing)
    weight = model[0].weight.detach().clone()
    score_pool(model, [X], progress=False)
    assert model[0].weight.requires_grad
    assert torch.equal(model[0].weight, weight)
    assert model.training


def test_a_model_that_cannot_be_asked_is_scored_in_eval_mode():
    class Reading(nn.Sequential):
        def train(self, mode=True):
            if self[0].weight.sum().item() > 1e9:  # no values are there
                raise AssertionError
            return super().train(mode)

    model = layers(kind=Reading)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score_pool(model, [X], progress=False)
    assert_close_relative(found, oracle.scores(model.eval(), oracle.ones(X)), 1e-5)
