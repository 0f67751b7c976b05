"""A default device of the caller's, of which no tensor of the package's own is made.

`torch.set_default_device("cuda")` and `with torch.device(...)` are for the caller's code. The meta
device stands for any other one: what is made there holds no numbers, and shows where it is read.
"""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._device import _device_constructors

import fastgradnorm as fgn
from fastgradnorm._selection.table import TABLE

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for name in ("src", "kernels") for p in (ROOT / name).rglob("*.py"))
CONSTRUCTORS = {function.__name__ for function in _device_constructors()}


def makes_a_tensor(node):
    called = node.func if isinstance(node, ast.Call) else None
    torchs = isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name)
    return torchs and called.value.id == "torch" and called.attr in CONSTRUCTORS


def unplaced(text):
    """Lines of calls that make a tensor wherever the caller's default is."""
    calls = filter(makes_a_tensor, ast.walk(ast.parse(text)))
    return [c.lineno for c in calls if not {"device", None} & {k.arg for k in c.keywords}]


@pytest.mark.slow
def test_every_tensor_is_made_on_a_device_that_is_named():
    assert unplaced("torch.zeros(2)\ntorch.zeros(2, device=d)\ntorch.ones(2, **options)") == [1]
    found = {str(path.relative_to(ROOT)): unplaced(path.read_text()) for path in SOURCES}
    assert len(found) > 200
    assert not {path: lines for path, lines in found.items() if lines}


def model_and_pool():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
    )
    return model.eval(), torch.randn(12, 1, 4, 4).split(5)


OPTIONS = {"progress": False}
PREDICTED = {"scheme": "predicted", **OPTIONS}
CALLS = {
    "score_pool": lambda m, x: fgn.score_pool(m, x, scheme=tuple(fgn.SCHEMES), **OPTIONS),
    "last layer": lambda m, x: fgn.score_pool(m, x, params="last_layer", **OPTIONS),
    "rtol": lambda m, x: fgn.score_pool(m, x, rtol=0.2, **OPTIONS),
    "bernoulli": lambda m, x: fgn.score_pool(m, x, likelihood="bernoulli", **OPTIONS),
    "naive": lambda m, x: fgn.naive_score_pool(m, x),
    "sketch": lambda m, x: fgn.gradient_sketch(m, x, dim=8, **OPTIONS),
    "mean": lambda m, x: fgn.mean_gradient(m, x, **PREDICTED),
    "dots": lambda m, x: fgn.gradient_dots(
        m, x, fgn.mean_gradient(m, x[:1], **PREDICTED), **PREDICTED
    ),
    "predictions": lambda m, x: fgn.score_and_predict(m, x, **OPTIONS),
    "batch": lambda m, x: fgn.GradNormScorer(m, **OPTIONS).score_batch(x[0]),
}


def parts(found):
    """All tensors of a result, in order."""
    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, Mapping):
        found = found.values()
    elif hasattr(found, "__dict__"):
        found = vars(found).values()
    several = isinstance(found, Iterable) and not isinstance(found, str)
    return [t for part in found for t in parts(part)] if several else []


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_results_are_the_same_under_any_default(name):
    model, pool = model_and_pool()
    expected = parts(CALLS[name](model, pool))
    with torch.device("meta"):
        found = parts(CALLS[name](model, pool))
    assert len(found) == len(expected) > 0
    assert all(map(torch.equal, found, expected))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", TABLE)
def test_so_is_what_is_chosen(strategy):
    model, pool = model_and_pool()
    options = {"k": 3, "strategy": strategy, "labelled": [1, 7], **OPTIONS}
    expected = fgn.acquire(model, pool, **options)
    with torch.device("meta"):
        found = fgn.acquire(model, pool, **options)
        assert repr(found) == repr(expected)
    assert found.indices.tolist() == expected.indices.tolist()


def test_the_callers_own_code_keeps_its_default():
    model, (first, *_) = model_and_pool()
    seen = []
    model.register_forward_hook(lambda *_: seen.append(torch.empty(0).device.type))
    with torch.device("meta"):
        fgn.score_pool(model, [first], **OPTIONS)
    assert set(seen) == {"meta"}
