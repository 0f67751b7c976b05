"""A model that is changed while a pool is scored: followed, told, or refused; never in silence."""

import threading
import warnings

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from fastgradnorm import DoubtfulScoresWarning, GradNormScorer, gradient_sketch, score_pool
from fastgradnorm._model.changes import Unchanged
from fastgradnorm._process import models_in_use
from tests.support import oracle
from tests.support.asserts import assert_close_relative

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))


class Tasks(nn.Module):
    gain, remembered = 1.0, None

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.task, self.mask = nn.Linear(4, 5), 0, torch.ones(5)
        self.heads = nn.ModuleList(nn.Linear(5, 3) for _ in range(3))
        self.register_buffer("scale", torch.ones(5))
        self._calls, self._ready, self._last = 0, False, torch.zeros(())
        self._power, self.bounds, self.slope, self.factor = 1.0, (-1.0, 1.0), torch.tanh, 1.0

    def forward(self, x):
        h = self.slope(self.body(x)).clamp(*self.bounds) ** self._power
        return self.heads[self.task](self.gained(h * self.mask * self.scale * self.factor))

    def gained(self, h):
        return self.gain * h


def assign(model):
    model.body.weight = nn.Parameter(2 * model.body.weight.detach())


def data(model):
    model.body.weight.data = 2 * model.body.weight.data


def layer(model):
    model.heads[0] = nn.Linear(5, 3)


def load(model):
    model.load_state_dict({k: 2 * v for k, v in model.state_dict().items()}, assign=True)


def freeze(model):
    model.body.requires_grad_(False)


def in_place(model):
    with torch.no_grad():
        model.body.weight.mul_(2)
        model.scale.mul_(1.5)


def task(model):
    model.task = (model.task + 1) % 3


def mask(model):
    model.mask = 2 * model.mask


def buffer(model):
    model.scale = 2 * model.scale


def power(model):
    model._power = 2.0


def bounds(model):
    model.bounds = (-0.1, 0.1)


def slope(model):
    model.slope = torch.sigmoid


def factor(model):
    model.factor = torch.full((5,), 2.0)


def array(model):
    model.factor = np.full(5, 2.0)


def hook(model):
    model.body.register_forward_hook(lambda module, args, output: 2 * output)


def earlier_hook(model):
    model.body.register_forward_pre_hook(lambda module, args: 2 * args[0])


def forward(model):
    model.forward = lambda x: 2 * Tasks.forward(model, x)


def gain(model):
    model.gain = 2.0


def method(model):
    model.gained = lambda h: 2 * h


OTHERS = {"assign": assign, "data": data, "layer": layer, "load": load, "freeze": freeze}
SETTINGS = {
    "task": task,
    "mask": mask,
    "scale": buffer,
    "_power": power,
    "bounds": bounds,
    "slope": slope,
    "factor": factor,
    "factor, an array": array,
    "body's hooks": hook,
    "body's hooks, earlier": earlier_hook,
    "forward": forward,
    "gain": gain,
    "gained": method,
}


def changing(model, change):
    for number, batch in enumerate(X.split(4)):
        if number == 1:
            change(model)
        yield batch


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("change", OTHERS)
def test_other_parameters_and_modules_are_refused_by_name(change, verify):
    model = Tasks()
    named = "heads.0" if change == "layer" else "body.(weight|bias)"
    with pytest.raises(ValueError, match=f"Got `model.{named}`, which is another one"):
        loader = changing(model, OTHERS[change])
        score_pool(model, loader, verify=verify, progress=False)


def more_bias(model):
    model.heads[0].bias = nn.Parameter(torch.ones(3))


def more_weight(model):
    model.heads[0].register_parameter("factor", nn.Parameter(torch.ones(3)))


@pytest.mark.parametrize("change, name", [(more_bias, "bias"), (more_weight, "factor")])
def test_parameters_that_were_not_there_are_refused_by_name(change, name):
    model = Tasks()
    model.heads[0] = nn.Linear(5, 3, bias=False)
    with pytest.raises(ValueError, match=f"Got `model.heads.0.{name}`, which"):
        score_pool(model, changing(model, change), verify=False, progress=False)


def test_in_streams_and_sketches_too():
    model = Tasks()
    stream = GradNormScorer(model, latency=0).stream(X.split(4))
    next(stream)
    assign(model)
    with pytest.raises(ValueError, match="which is another one"):
        next(stream)
    with pytest.raises(ValueError, match="which is another one"):
        gradient_sketch(model, changing(model, data), dim=16, progress=False)


@pytest.mark.parametrize("change", SETTINGS)
def test_other_settings_are_told_once(change):
    model = Tasks()
    told = "`model.{}` is another one".format(change.partition(",")[0])
    with pytest.warns(DoubtfulScoresWarning, match=told) as caught:
        loader = changing(model, SETTINGS[change])
        score_pool(model, loader, verify=False, progress=False)
    assert len(caught) == 1


def test_values_in_place_are_followed():
    model, exact, found = Tasks(), [], []
    for scores in GradNormScorer(model, latency=0, verify=False).stream(X.split(4)):
        found.append(scores)
        ones = oracle.ones(X[4 * len(exact) : 4 * len(exact) + 4])
        exact.append(oracle.scores(model, ones))
        in_place(model)
    assert_close_relative(torch.cat(found), torch.cat(exact), 1e-5)


def test_what_scoring_does_not_depend_on_is_not_told():
    """Any warning is an error here."""

    def change(model):
        model.train()
        model._calls, model._ready, model._last = model._calls + 1, True, torch.ones(())
        model.bounds, model.slope = (*model.bounds,), torch.tanh
        model.remembered, model.more = X, 1
        model(X).sum().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        model.load_state_dict(model.state_dict())

    model = Tasks()
    assert len(score_pool(model, changing(model, change), verify=False, progress=False)) == 12


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "pruned"])
def test_weights_that_each_call_makes_are_not_told(name):
    def pruned(layer):
        return nn.utils.prune.l1_unstructured(layer, "weight", 2)

    model = Tasks()
    make = pruned if name == "pruned" else getattr(nn.utils, name)
    make(model.body)
    loader = changing(model.eval(), lambda model: model(X))
    assert len(score_pool(model, loader, verify=False, progress=False)) == 12


@pytest.mark.slow
def test_a_model_that_another_thread_calls_is_looked_at_when_that_is_over():
    model, seen = nn.Linear(4, 3), []
    model.calls = 0
    with models_in_use:
        model.calls += 1  # until the call is over
        looks = threading.Thread(target=lambda: seen.append(Unchanged(model, {})))
        looks.start()
        looks.join(0.2)
        assert not seen
        model.calls -= 1
    looks.join(30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen[0].check()
