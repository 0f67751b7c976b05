"""Sketches in both forms, of all kinds of layers, against a hash of each element of a gradient."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import VerificationError
from fastgradnorm._engine import sketched
from fastgradnorm._operations import tensor_sketch
from fastgradnorm._sketches import sketched as room
from tests.support.cases import Custom, perturb
from tests.support.directions import Text
from tests.support.sketched import expected, found


def layers(*modules):
    return nn.Sequential(*modules, nn.Flatten(), nn.LazyLinear(3))


class Tied(nn.Module):
    """An embedding that is the head too, and a square weight by both of its sides."""

    def __init__(self):
        super().__init__()
        self.words, self.square = nn.Embedding(9, 6, padding_idx=0), nn.Linear(6, 6)
        self.to_classes = nn.Linear(9, 3, bias=False)

    def forward(self, ids):
        x = torch.tanh(self.square(torch.tanh(self.square(self.words(ids)))))
        x = torch.tanh(x @ self.square.weight) @ self.square.weight.T
        return self.to_classes(F.linear(x, self.words.weight).mean(1))


class Raw(nn.Module):
    """Parameters of 0 to 4 dimensions, by operations with rules and without."""

    def __init__(self):
        super().__init__()
        shapes = {"gain": (), "shift": (5,), "through": (5, 4), "many": (2, 4, 3), "last": (1,)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))
        self.wide = nn.Parameter(torch.randn(2, 3, 1, 2))

    def forward(self, x):
        x = (x * self.gain + self.shift) @ self.through
        x = torch.bmm(torch.stack([x[:, 0], x[:, 1]]), self.many).transpose(0, 1)
        x = torch.einsum("ngi,gioj->nj", x, self.wide).tanh()
        return torch.cat([x, self.last.expand(len(x), 1)], 1)


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4, dtype=torch.complex64))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head((x.to(self.weight.dtype) @ self.weight).abs())


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.series, self.head = kind(4, 5, batch_first=True, num_layers=2), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.series(x)[0][:, -1])


class Packed(nn.Module):
    """Chunks of one weight, a weight that makes itself, and attention."""

    def __init__(self):
        super().__init__()
        self.both, self.head = nn.Linear(4, 8), nn.Linear(4, 3)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))

    def forward(self, x):
        first, second = self.both.weight.chunk(2)
        x = F.linear(x, first) * torch.sigmoid(F.linear(x, second)) + self.both.bias.chunk(2)[0]
        x = self.normed(self.attention(x, x, x)[0])
        return self.head(x.mean(1)) + F.linear(self.head.weight, self.head.weight).sum(0)


MODELS = {
    "one position": (lambda: layers(nn.Linear(5, 8), nn.Tanh(), nn.LayerNorm(8)), (5,)),
    "positions": (lambda: layers(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 4)), (6, 5)),
    "groups": (
        lambda: layers(
            nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.GroupNorm(2, 6), nn.ReLU()
        ),
        (4, 7, 7),
    ),
    "depthwise": (
        lambda: layers(nn.Conv1d(4, 4, 3, groups=4, padding="same"), nn.Conv1d(4, 2, 1)),
        (4, 9),
    ),
    "dilated": (lambda: layers(nn.Conv3d(2, 3, 2, dilation=2, bias=False)), (2, 4, 4, 4)),
    "transposed": (lambda: layers(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Tanh()), (4, 3, 3)),
    "text": (Text, "ids"),
    "ties": (Tied, "ids"),
    "raw": (Raw, (2, 5)),
    "complex": (Complex, (5,)),
    "lstm": (lambda: Recurrent(nn.LSTM), (6, 4)),
    "lstm, projected": (
        lambda: Recurrent(lambda i, o, **more: nn.LSTM(i, 7, proj_size=o, **more)),
        (6, 4),
    ),
    "gru": (lambda: Recurrent(nn.GRU), (6, 4)),
    "packed": (Packed, (5, 4)),
}


def made(name, samples=4):
    torch.manual_seed(7)
    make, shape = MODELS[name]
    x = torch.randint(0, 9, (samples, 6)) if shape == "ids" else torch.randn(samples, *shape)
    model = make().eval()
    model(x)
    return perturb(model), (x, torch.arange(samples) % 3)


@pytest.fixture(params=["chosen", "outer", "formed", "all formed"])
def form(request, monkeypatch):
    """Which form is taken, and in `used` which have been."""
    used = set()
    if request.param != "chosen":
        outer = request.param == "outer"
        monkeypatch.setattr(tensor_sketch, "_TRANSFORMED", 0.0 if outer else 1e9)
        monkeypatch.setattr(tensor_sketch, "_MULTIPLIED", 1e9 if outer else 0.0)
    choose = tensor_sketch.choose_form

    def noted(*args):
        found = "formed" if request.param == "all formed" else choose(*args)
        used.add(found)
        return found

    monkeypatch.setattr(sketched, "choose_form", noted)
    return request.param, used


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", MODELS)
def test_every_form_gives_the_numbers_of_a_hash_of_each_element(name, form):
    model, batch = made(name)
    for dim, seed in [(16, 0), (7, 3), (1, 1)]:
        exact, sizes = expected(model, batch, dim, seed)
        gap = (found(model, [batch], dim, seed) - exact).norm(dim=1)
        assert float((gap / sizes).max()) < 1e-5
    chosen, used = form
    without = {"raw", "complex"} if chosen == "outer" else set()
    if chosen == "outer" and name not in without:
        assert "outer" in used
    if chosen.endswith("formed"):
        assert "outer" not in used


@pytest.mark.slow
@pytest.mark.parametrize("name", ["groups", "ties", "lstm"])
def test_batches_and_precision(name, form):
    model, (x, y) = made(name, samples=6)
    whole = found(model, [(x, y)], 32, 5)
    for size in (1, 4):
        parts = found(model, [*zip(x.split(size), y.split(size), strict=True)], 32, 5)
        assert float(((parts - whole).norm(dim=1) / whole.norm(dim=1)).max()) < 1e-5
    model, x = model.double(), x if name == "ties" else x.double()
    exact, sizes = expected(model, (x, y), 32, 5)
    assert float(((found(model, [(x, y)], 32, 5) - exact).norm(dim=1) / sizes).max()) < 1e-12


@pytest.mark.slow
def test_some_parameters(form):
    model, batch = made("ties")
    model.square.weight.requires_grad_(False)
    exact, sizes = expected(model, batch, 16, 0)
    assert float(((found(model, [batch], 16, 0) - exact).norm(dim=1) / sizes).max()) < 1e-5
    words = found(model, [batch], 16, 0, params=lambda name, _: name.startswith("words"))
    rest = found(model, [batch], 16, 0, params=lambda name, _: not name.startswith("words"))
    assert float(((words + rest - exact).norm(dim=1) / sizes).max()) < 1e-5


def test_one_use_under_no_grad_and_one_that_counts(form):
    def run(model, x):
        with torch.no_grad():
            gate = torch.sigmoid(model.inner(x))
        return model.head(torch.tanh(model.inner(x)) * gate)

    torch.manual_seed(2)
    model = perturb(Custom(run, inner=nn.Linear(4, 4), head=nn.Linear(4, 3)))
    batch = torch.randn(5, 4), torch.arange(5) % 3
    exact, sizes = expected(model, batch, 8, 2)
    assert float(((found(model, [batch], 8, 2) - exact).norm(dim=1) / sizes).max()) < 1e-5


@pytest.mark.slow
def test_a_wrong_form_is_noticed(monkeypatch):
    model, batch = made("positions")
    right = tensor_sketch.ParameterMap.outer
    wrong = lambda self, a, *rest: right(self, a.flip(-1), *rest)  # noqa: E731
    monkeypatch.setattr(tensor_sketch.ParameterMap, "outer", wrong)
    with pytest.raises(VerificationError, match="sample 0: its sketch is off by"):
        found(model, [batch], 16, 0)
    found(model, [batch], 16, 0, verify=False)
    # A gradient that rounding alone moves as far is nobody's fault.
    monkeypatch.setattr(room, "movement", lambda *_: torch.full((1,), 1e3))
    found(model, [batch], 16, 0)


@pytest.mark.parametrize("name", ["one position", "text", "groups"])
def test_the_last_layer(name):
    model, batch = made(name)
    last = [n for n, _ in model.named_parameters()][-2:]
    exact, sizes = expected(model, batch, 16, 0, last)
    part = found(model, [batch], 16, 0, params="last_layer")
    assert float(((part - exact).norm(dim=1) / sizes).max()) < 1e-5


# PyTorch 2.11 warns so, once, of a profiler that has one cycle, too.
@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")
@pytest.mark.parametrize("positions", [1, 4])
def test_a_wide_layer_needs_nothing_as_long_as_its_weight(positions):
    model = nn.Sequential(
        nn.Linear(2000, 2000), nn.Tanh(), nn.Flatten(), nn.Linear(2000 * positions, 3)
    )
    batch = torch.randn(3, positions, 2000), torch.arange(3)
    with torch.profiler.profile(profile_memory=True) as profile:
        found(model.eval(), [batch], 64, 0, verify=False)
    events = sorted(
        (e.start_ns(), e.nbytes())
        for e in profile.profiler.kineto_results.events()
        if e.name() == "[memory]"
    )
    peak = max(itertools.accumulate(change for _, change in events))
    assert 0 < peak < model[0].weight.nbytes / 8
