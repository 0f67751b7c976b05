"""A run goes on with the same functions alone: by what they hold and read, not by their source."""

import functools
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import score_pool, store_sketches
from fastgradnorm._pool.functions import code_of
from fastgradnorm._pool.identity import digest
from tests.support.stopping import Stop, stopped_after

REFUSED = r"same model, options and pool.*differs in loss"
weight = 1.0
table = {"weight": 1.0}


class Focal:
    def __init__(self, gamma):
        self.gamma, self.calls, self.seen = gamma, 0, []

    def __call__(self, output, batch):
        self.calls += 1  # what it counts, or keeps, is no part of what it is
        self.seen.append(len(output))
        losses = F.cross_entropy(output, batch[1], reduction="none")
        return ((1 - (-losses).exp()) ** self.gamma * losses).sum()

    def method(self, output, batch):
        return self(output, batch)


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, output, batch):
        return self.scale * F.cross_entropy(output, batch[1])


class Inner(nn.Module):
    def __init__(self, smoothing):
        super().__init__()
        self.inner, self.calls = nn.CrossEntropyLoss(label_smoothing=smoothing), 0

    def forward(self, output, target):
        self.calls += 1
        return self.inner(output, target)


class Listed(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scales = [1.0, scale]

    def forward(self, output, target):
        return self.scales[1] * F.cross_entropy(output, target)


def around(base):
    return lambda output, batch: base(output, batch[1])


def set_by(settings):
    return lambda output, batch: settings["scale"] * F.cross_entropy(output, batch[1])


def of_object(settings):
    return lambda output, batch: settings.scale * F.cross_entropy(output, batch[1])


def signed(n):
    """Of functions that read the same names and numbers."""
    if n == 1:
        return lambda output, batch: F.cross_entropy(output, batch[1]) + output.square().mean()
    return lambda output, batch: F.cross_entropy(output, batch[1]) - output.square().mean()


# fmt: off
ON_ONE_LINE = (lambda z, b: (z + z[:, :1]).square().mean(), lambda z, b: (z - z[:, :1]).square().mean())  # noqa: E501
# fmt: on


def taught(teacher):
    return lambda output, batch: F.mse_loss(output, teacher(batch[0]))


def teacher(scale):
    torch.manual_seed(0)
    made = nn.Linear(4, 3)
    made.weight.data *= scale
    return made


def times(loss, scale):
    @functools.wraps(loss)
    def scaled(*given):
        return scale * loss(*given)

    return scaled


def plain(output, batch):
    return F.cross_entropy(output, batch[1])


def of_globals(output, batch):
    return weight * table["weight"] * F.cross_entropy(output, batch[1])


def smoothed(smoothing):
    return nn.CrossEntropyLoss(label_smoothing=smoothing)


def compiled(function):
    return torch.compile(function, backend="eager")


# What makes each from 1 and from 2, which differ.
FORMS = {
    "an object": lambda n: Focal(n),
    "its method": lambda n: Focal(n).method,
    "with slots": lambda n: Slotted(n),
    "a module in a module": lambda n: Inner(n / 10),
    "a list in a module": lambda n: Listed(float(n)),
    "a module in a closure": lambda n: around(smoothed(n / 10)),
    "a function in a closure": lambda n: around((F.cross_entropy, F.multi_margin_loss)[n - 1]),
    "a partial one in a closure": lambda n: around(
        functools.partial(F.cross_entropy, label_smoothing=n / 10)
    ),
    "an object in a partial one": lambda n: functools.partial(Focal(n)),
    "a dict in a closure": lambda n: set_by({"scale": n}),
    "settings in a closure": lambda n: of_object(SimpleNamespace(scale=n)),
    "a teacher in a closure": lambda n: taught(teacher(n)),
    "what is around it": lambda n: times(plain, n),
    "an operator": signed,
    "an operator on one line": lambda n: ON_ONE_LINE[n - 1],
    "a compiled closure": lambda n: compiled(around(smoothed(n / 10))),
    "a compiled module": lambda n: compiled(Inner(n / 10)),
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def pool():
    torch.manual_seed(1)
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    return list(zip(x.split(4), y.split(4), strict=True))


def begin(model, path, loss):
    with pytest.raises(Stop):
        score_pool(model, stopped_after(pool(), 2), loss=loss, checkpoint=path, latency=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FORMS])
def test_another_function_is_refused_and_the_same_goes_on(model, path, name):
    made = FORMS[name]
    loss = made(1)
    begin(model, path, loss)
    with pytest.raises(ValueError, match=REFUSED):
        score_pool(model, pool(), loss=made(2), checkpoint=path)
    whole = score_pool(model, pool(), loss=made(1))
    torch.testing.assert_close(score_pool(model, pool(), loss=loss, checkpoint=path), whole)


@pytest.mark.parametrize("name", ["weight", "table"])
def test_globals_that_it_reads(model, path, name, monkeypatch):
    begin(model, path, of_globals)
    monkeypatch.setitem(globals(), name, 2.0 if name == "weight" else {"weight": 2.0})
    with pytest.raises(ValueError, match=REFUSED):
        score_pool(model, pool(), loss=of_globals, checkpoint=path)


def test_of_sketches(model, tmp_path):
    with pytest.raises(Stop):
        store_sketches(model, stopped_after(pool(), 2), tmp_path, 8, loss=Focal(1), latency=0)
    with pytest.raises(ValueError, match=REFUSED):
        store_sketches(model, pool(), tmp_path, 8, loss=Focal(2))


def test_what_it_counts_and_fills_is_no_part_of_it(model, path):
    calls, seen, kept = 0, [], {}

    def loss(output, batch):
        nonlocal calls
        calls += 1
        seen.append(len(output))
        kept[calls] = len(output)
        return F.cross_entropy(output, batch[1]) + 0 * model(batch[0]).sum()

    begin(model, path, loss)
    assert calls and seen and kept
    found = score_pool(model, pool(), loss=loss, checkpoint=path)
    torch.testing.assert_close(found, score_pool(model, pool(), loss="cross_entropy"))


class Scaled(nn.Module):
    def __init__(self, scale, function):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.scale, self.function, self.calls = nn.Linear(4, 3), scale, function, 0

    def forward(self, x):
        self.calls += 1
        return self.function(self.layer(x)) * self.scale


@pytest.mark.parametrize(
    "other", [(2.0, F.relu), (1.0, F.silu), (1.0, functools.partial(F.relu, inplace=True))]
)
def test_a_model_of_other_settings(path, other):
    """Which do not stand in what its layers print."""
    begin(Scaled(1.0, F.relu), path, "cross_entropy")
    with pytest.raises(ValueError, match=r"same model, options and pool.*differs in model"):
        score_pool(Scaled(*other), pool(), loss="cross_entropy", checkpoint=path)
    score_pool(Scaled(1.0, F.relu), pool(), loss="cross_entropy", checkpoint=path)


@pytest.mark.slow
def test_it_is_the_same_in_another_process(model):
    text = (
        "from tests.pool.test_what_functions_hold import *\n"
        "told = [code_of(made(1), nn.Linear(1, 1), digest, True) for made in FORMS.values()]\n"
        "print(*told, code_of(of_globals, nn.Linear(1, 1), digest, True))\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", text],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert code_of(of_globals, model, digest, True) in found.pop()
