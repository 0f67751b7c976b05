"""Settings beside a model's own attributes that are changed while a pool is scored: told by name.

Copies of the module tree share them with the caller's, and a pass that is replayed does not.
"""

import dataclasses
import enum
import functools
import types
import warnings
from argparse import Namespace

import numpy as np
import pytest
import torch
from torch import nn

from fastgradnorm import DoubtfulScoresWarning, score_pool

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
GLOBAL, TABLE, CALLS = 1.0, {"gain": 1.0}, 0
ARRAY, SPACE = np.ones(5, dtype=np.float32), types.SimpleNamespace(gain=1.0)
TENSOR = torch.ones(5)
SETTINGS_MODULE = types.ModuleType("settings_of_a_caller")
SETTINGS_MODULE.gain = 1.0


class Kind:
    gain = 1.0


class Kept(enum.Enum):
    ALL, HALF = 1.0, 0.5


@dataclasses.dataclass
class Config:
    gain: float = 1.0
    inner: dict = dataclasses.field(default_factory=lambda: {"gains": [1.0]})


class Gain:
    """An object that is called, and holds what it multiplies by."""

    def __init__(self):
        self.gain, self.calls = 1.0, 0

    def __call__(self, h):
        self.calls += 1
        return h * self.gain

    def times(self, h):
        return h * self.gain


def by_global(h):
    return h * GLOBAL


def by_two(h):
    return by_table(h)


def by_table(h):
    return h * TABLE["gain"]


def enclosed():
    gain = 1.0

    def multiplied(h):
        return h * gain

    def louder():
        nonlocal gain
        gain = 2.0

    return multiplied, louder


class Model(nn.Module):
    gain, table = 1.0, {"gain": 1.0}

    def __init__(self, use):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.use = nn.Linear(4, 5), nn.Linear(5, 3), use
        self.config, self.gains = {"gain": 1.0, "deep": {"gains": [0.5, 1.0]}}, [1.0]
        self.array, self.number = np.ones(5, dtype=np.float32), np.float32(1.0)
        self.data, self.space = Config(), Namespace(gain=1.0)
        self.object, self.method, self.kept = Gain(), Gain().times, Kept.ALL
        self.masks, self.active, self.names = {"a": torch.ones(5)}, {"a"}, ["a"]
        self.part, self.limit, self.pair = functools.partial(torch.mul, other=1.0), None, ({},)
        self._config, self.functions = {"gain": 1.0}, {"slope": torch.tanh}
        self.enclosed, self.louder = enclosed()
        self.pair[0]["gain"] = 1.0
        self.remembered, self.counts, self.losses = {}, {"calls": None}, [0.5]
        self._counts, self._ready = {"calls": 0}, [False]

    def forward(self, x):
        return self.head(self.used(torch.tanh(self.body(x))))

    def used(self, h):
        return self.use(self, h)


def louder(holder, name="gain", value=2.0):
    return lambda model: setattr(holder(model), name, value)


def item(holder, key="gain", value=2.0):
    return lambda model: holder(model).__setitem__(key, value)


def rebound(name, value):
    return lambda model: globals().__setitem__(name, value)


# How the setting is used, how it is changed, and what is told.
CHANGES = {
    "mapping": (
        lambda m, h: h * m.config["gain"], item(lambda m: m.config), "model.config['gain']"),
    "update": (
        lambda m, h: h * m.config["gain"], lambda m: m.config.update(gain=2.0),
        "model.config['gain']"),
    "deep": (
        lambda m, h: h * m.config["deep"]["gains"][1], item(lambda m: m.config["deep"]["gains"], 1),
        "model.config['deep']['gains'][1]"),
    "list": (lambda m, h: h * m.gains[0], item(lambda m: m.gains, 0), "model.gains[0]"),
    "tuple-of-mappings": (
        lambda m, h: h * m.pair[0]["gain"], item(lambda m: m.pair[0]), "model.pair[0]['gain']"),
    "private-mapping": (
        lambda m, h: h * m._config["gain"], item(lambda m: m._config), "model._config['gain']"),
    "array": (
        lambda m, h: h * torch.from_numpy(m.array), item(lambda m: m.array, slice(None)),
        "model.array"),
    "another-array": (
        lambda m, h: h * torch.from_numpy(m.array),
        lambda m: setattr(m, "array", 2 * m.array), "model.array"),
    "number-of-numpy": (
        lambda m, h: h * m.number, louder(lambda m: m, "number", np.float32(2)), "model.number"),
    "enumeration": (
        lambda m, h: h * m.kept.value, louder(lambda m: m, "kept", Kept.HALF), "model.kept"),
    "what-was-nothing": (
        lambda m, h: h * (m.limit or 1.0), louder(lambda m: m, "limit"), "model.limit"),
    "dataclass": (lambda m, h: h * m.data.gain, louder(lambda m: m.data), "model.data.gain"),
    "within-a-dataclass": (
        lambda m, h: h * m.data.inner["gains"][0], item(lambda m: m.data.inner["gains"], 0),
        "model.data.inner['gains'][0]"),
    "namespace": (lambda m, h: h * m.space.gain, louder(lambda m: m.space), "model.space.gain"),
    "object": (lambda m, h: m.object(h), louder(lambda m: m.object), "model.object.gain"),
    "method-of-an-object": (
        lambda m, h: m.method(h), louder(lambda m: m.method.__self__),
        "Gain of model.method.gain"),
    "tensors-by-name": (
        lambda m, h: h * m.masks["a"], item(lambda m: m.masks, "a", torch.zeros(5)),
        "model.masks['a']"),
    "set": (
        lambda m, h: h * (1 + len(m.active)), lambda m: m.active.add("b"), "model.active"),
    "names": (lambda m, h: h * len(m.names), lambda m: m.names.append("b"), "model.names"),
    "functions": (
        lambda m, h: m.functions["slope"](h),
        item(lambda m: m.functions, "slope", torch.sigmoid), "model.functions['slope']"),
    "arguments-of-a-function": (
        lambda m, h: m.part(h), item(lambda m: m.part.keywords, "other"),
        "keywords of model.part['other']"),
    "closure": (
        lambda m, h: m.enclosed(h), lambda m: m.louder(), "gain`, which `model.enclosed` reads"),
    "class": (lambda m, h: h * m.gain, louder(lambda m: Model), "Model.gain"),
    "mapping-of-a-class": (
        lambda m, h: h * m.table["gain"], item(lambda m: Model.table), "Model.table['gain']"),
    "method-of-a-class": (
        lambda m, h: h, louder(lambda m: Model, "used", lambda m, h: 2 * h), "Model.used"),
    "forward-of-pytorch": (
        lambda m, h: h,
        louder(lambda m: nn.Linear, "forward", lambda m, x: 2 * (x @ m.weight.T + m.bias)),
        "Linear.forward"),
    "global": (lambda m, h: h * GLOBAL, rebound("GLOBAL", 2.0), "GLOBAL`, which `"),
    "global-tensor": (
        lambda m, h: h * TENSOR, rebound("TENSOR", torch.zeros(5)), "TENSOR`, which `"),
    "global-mapping": (
        lambda m, h: h * TABLE["gain"], item(lambda m: TABLE), "TABLE['gain']"),
    "global-array": (
        lambda m, h: h * torch.from_numpy(ARRAY), item(lambda m: ARRAY, 0), "ARRAY"),
    "global-namespace": (
        lambda m, h: h * SPACE.gain, louder(lambda m: SPACE), "SPACE.gain`, which `"),
    "module-of-settings": (
        lambda m, h: h * SETTINGS_MODULE.gain, louder(lambda m: SETTINGS_MODULE),
        "SETTINGS_MODULE.gain`, which `"),
    "another-class": (lambda m, h: h * Kind.gain, louder(lambda m: Kind), "Kind.gain`, which `"),
    "function-that-reads-one": (
        lambda m, h: by_global(h), rebound("GLOBAL", 2.0), "GLOBAL`, which `"),
    "function-that-calls-one": (lambda m, h: by_two(h), item(lambda m: TABLE), "TABLE['gain']"),
    "function-in-its-place": (
        lambda m, h: by_two(h), rebound("by_table", torch.sigmoid), "by_table`, which `"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def as_it_was():
    """What a change has done to this file, and to PyTorch, is undone."""
    names, forward, used = dict(globals()), nn.Linear.forward, Model.used
    yield
    globals().update(names)
    nn.Linear.forward, Model.used = forward, used
    TABLE["gain"] = Model.table["gain"] = ARRAY[0] = 1.0
    Model.gain = Kind.gain = SPACE.gain = SETTINGS_MODULE.gain = 1.0


def changing(model, change):
    for number, batch in enumerate(X.split(4)):
        if number == 1:
            change(model)
        yield batch


def told_of(model, change, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        score_pool(model, changing(model, change), verify=False, progress=False, **options)
    assert [each.category for each in caught] in ([], [DoubtfulScoresWarning])
    return str(caught[0].message) if caught else ""


@pytest.mark.parametrize("use, change, name", CHANGES.values(), ids=CHANGES.keys())
def test_a_setting_is_told_by_name(use, change, name):
    told = told_of(Model(use), change)
    assert f"`{name}" in told
    assert "is another one than when that began" in told


def test_what_a_function_of_the_caller_reads_that_runs_the_model():
    gain, table = 1.0, {"gain": 1.0}

    def forward(model, x):
        return model.head(gain * table["gain"] * torch.tanh(model.body(x)))

    def rebind(model):
        nonlocal gain
        gain = 2.0

    change = item(lambda m: table)
    model = Model(lambda m, h: h)
    assert "`table['gain']`" in told_of(model, change, forward=forward)
    assert "`gain`, which `forward` reads" in told_of(model, rebind, forward=forward)

    def loss(output, batch):
        return table["gain"] * output.square().sum()

    table["gain"] = 1.0
    assert "`table['gain']`" in told_of(model, change, loss=loss)


def test_a_hook_that_reads_one():
    table, model = {"gain": 1.0}, Model(lambda m, h: h)
    model.body.register_forward_hook(lambda module, args, output: table["gain"] * output)
    assert "`table['gain']`" in told_of(model, item(lambda m: table))


def test_what_is_remembered_of_calls_is_not_told():
    """By the model's own runs, and by the caller's meanwhile."""

    def use(model, h):
        global CALLS
        CALLS += 1
        model.remembered["last"] = model.masks["a"] * h
        return model.object(h)

    def change(model):
        model.counts["calls"], model.remembered["last"] = 3, torch.ones(5)
        model._counts["calls"], model._ready[0] = 3, True
        model.losses.append(0.25)
        model.config.update(gain=1.0)
        model.train()

    assert told_of(Model(use), change) == ""


def test_vocabularies_are_not_looked_through():
    model = Model(lambda m, h: h)
    model.words = {f"word {i}": i for i in range(2000)}
    assert told_of(model, item(lambda m: m.words, "word 7", 8)) == ""
