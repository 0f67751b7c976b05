"""What is told of sketches and products is what is done."""

from collections import Counter

import pytest
import torch
from torch import nn

from fastgradnorm import explain_gradients, gradient_dots, gradient_sketch
from fastgradnorm._engine import directed
from fastgradnorm._operations.tensor_sketch import ParameterMap
from tests.engine.test_sketched import MODELS, made
from tests.support.directions import random_directions

# PyTorch says so of LSTMs with projections, once a process.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
OPTIONS = {"loss": "cross_entropy", "progress": False, "verify": False}


def counted(monkeypatch, owner, name, seen, key):
    right = getattr(owner, name)

    def call(*args):
        seen[key(*args)] += 1
        return right(*args)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("dim", [4, 64])
@pytest.mark.parametrize("name", MODELS)
def test_sketches(name, dim, monkeypatch):
    model, batch = made(name)
    table = explain_gradients(model, batch, dim=dim, **OPTIONS)
    seen = Counter()
    for form in ("outer", "rows"):
        counted(monkeypatch, ParameterMap, form, seen, lambda m, *_, form=form: (m.name, form))
    gradient_sketch(model, [batch], dim, latency=0, **OPTIONS)
    told = {row.parameter: row.rule for row in table.rows}
    assert told.keys() == {n for n, _ in model.named_parameters()} - {*table.unused}
    for parameter, rule in told.items():
        assert ("TensorSketch" in rule) == (seen[parameter, "outer"] > 0), parameter
        assert ("lookup" in rule) == (seen[parameter, "rows"] > 0), parameter
    assert all(row.flops > 0 and row.peak_bytes > 0 for row in table.rows)
    assert "sketches" in str(table)


@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("name", MODELS)
def test_products(name, count, monkeypatch):
    model, batch = made(name)
    table = explain_gradients(model, batch, directions=count, **OPTIONS)
    seen = Counter()
    for read in ("_of_outer", "_of_rows", "_formed"):
        counted(monkeypatch, directed, read, seen, lambda *_, read=read: read)
    gradient_dots(model, [batch], random_directions(model, count), latency=0, **OPTIONS)
    rules = Counter(rule for row in table.rows for rule in row.rule.split(" + "))
    assert bool(rules["product"] + rules["formed"]) == bool(seen["_of_outer"])
    assert bool(rules["lookup"]) == bool(seen["_of_rows"])
    assert bool(rules["gradient"]) == bool(seen["_formed"])
    assert (rules["formed"] > 0) <= (count > 1)


def test_cosines_form_every_gradient():
    model, batch = made("text")
    table = explain_gradients(model, batch, directions=3, cosine=True, **OPTIONS)
    assert {row.rule for row in table.rows} == {"gradient"}
    assert "products" in str(table)
    directions = random_directions(model, 2)
    assert explain_gradients(model, batch, directions=directions, **OPTIONS).rows


def test_recurrent_weights_are_not_formed():
    model, batch = made("lstm")
    rules = {r.parameter: r for r in explain_gradients(model, batch, directions=1, **OPTIONS).rows}
    assert rules["series.weight_hh_l0"].rule == "product"
    assert rules["series.weight_hh_l0"].flops == 2 * 6 * 20 * (5 + 1)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, ValueError, "`dim` must be given for sketches, or `directions`"),
        ({"dim": 8, "directions": 1}, ValueError, "`dim` must be given for sketches, or"),
        ({"dim": 8, "cosine": True}, ValueError, "`cosine` must be False for sketches"),
        ({"directions": 0}, ValueError, "`directions` must be an integer >= 1"),
        ({"directions": {"0.weigt": torch.ones(1)}}, ValueError, "names of the model's parameters"),
        ({"dim": 8, "lss": 1}, TypeError, "Did you mean `loss`"),
    ],
)
def test_what_is_wrong_is_told(given, error, message):
    batch = torch.ones(2, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(error, match=message):
        explain_gradients(nn.Sequential(nn.Linear(3, 2)), batch, loss="cross_entropy", **given)
