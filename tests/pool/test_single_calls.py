"""Calls of `score_batch` in a row: verified as batches of one pool, while the model is the same."""

import copy
import gc
import pickle
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, VerificationError, naive_score_pool
from fastgradnorm._engine.outcome import Norms
from fastgradnorm._witness.gradients import Comparison
from tests.support.asserts import assert_close_relative


class Scaled(nn.Module):
    """With a bit of everything that a model may have."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        self.register_buffer("mean", torch.zeros(4))
        self.scale, self.parts, self.named = 1.0, [1.0], {"shift": 0.0}
        self.loose = torch.ones(4)
        self.listed, self.kept = [torch.ones(4), "a word"], {"tensor": torch.ones(4)}
        self.paired = (torch.ones(4), 1)

    def forward(self, x):
        x = (x - self.mean) * self.scale * self.loose
        x = x * self.listed[0] * self.kept["tensor"] * self.paired[0]
        return self.more(self.layers(x)) * self.parts[0] + self.named["shift"]

    def more(self, x):
        return x * self.gain

    gain = 1.0


class Doubled(Scaled):
    """With the same `forward`."""

    def more(self, x):
        return 2 * x


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Scaled().double()


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def compared(monkeypatch):
    """How many pairs of samples were compared with plain autograd."""
    found, check = [], Comparison.check

    def counted(self, *args):
        found.append(1)
        return check(self, *args)

    monkeypatch.setattr(Comparison, "check", counted)
    return found


@pytest.mark.slow
def test_only_the_first_of_a_model_that_stays_is_verified(model, compared):
    scorer = GradNormScorer(model)
    want = naive_score_pool(model, [X])
    for _ in range(5):
        assert_close_relative(scorer.score_batch(X), want, 1e-10)
    assert len(compared) == 1
    scorer.score([X])  # a pool is verified for itself
    assert len(compared) == 2


@pytest.mark.slow
def test_some_later_ones_are_too(model, compared):
    scorer = GradNormScorer(model)
    for _ in range(40):
        scorer.score_batch(X)
    assert len(compared) in (2, 3)


@pytest.mark.slow
def test_all_are_if_all_are_asked_for(model, compared):
    scorer = GradNormScorer(model, verify="all")
    for _ in range(3):
        scorer.score_batch(X)
    assert len(compared) == 6  # pairs of three samples


def step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def assign(model):
    model.layers[0].weight = nn.Parameter(torch.randn(6, 4, dtype=torch.float64))


def point(model):
    model.layers[0].weight.data = torch.randn(6, 4, dtype=torch.float64)


def replace_layer(model):
    model.layers[1] = nn.ReLU()


def add_layer(model):
    model.layers.append(nn.Tanh())


def add_hook(model):
    model.layers[0].register_forward_hook(lambda module, args, output: output * 2)


def add_own_forward(model):
    forward = model.forward
    model.forward = lambda x: forward(x) * 2


def freeze(model):
    model.layers[0].weight.requires_grad_(False)


def write(model):
    with torch.no_grad():
        model.layers[2].bias += 1


CHANGES = {
    "trained": step,
    "loaded": lambda model: model.load_state_dict(Scaled().double().state_dict()),
    "a parameter assigned": assign,
    "data assigned": point,
    "written in place": write,
    "frozen": freeze,
    "another layer": replace_layer,
    "one layer more": add_layer,
    "a hook": add_hook,
    "a forward of its own": add_own_forward,
    "a buffer written": lambda model: model.mean.add_(1),
    "a buffer assigned": lambda model: setattr(model, "mean", torch.ones(4).double()),
    "a number": lambda model: setattr(model, "scale", 2.0),
    "a tensor that is no buffer": lambda model: model.loose.mul_(2),
    "an element of a list": lambda model: model.parts.__setitem__(0, 2.0),
    "a tensor in a list": lambda model: model.listed[0].mul_(2),
    "another tensor in a list": lambda model: model.listed.__setitem__(0, torch.full((4,), 2.0)),
    "a tensor in a mapping": lambda model: model.kept["tensor"].mul_(2),
    "a tensor in a tuple": lambda model: model.paired[0].mul_(2),
    "a class of its own": lambda model: setattr(model, "__class__", Doubled),
    "a value of a mapping": lambda model: model.named.update(shift=1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_model_that_changed_is_verified_anew(model, compared, change):
    scorer = GradNormScorer(model)
    for _ in range(2):
        scorer.score_batch(X)
    change(model)
    assert_close_relative(scorer.score_batch(X), naive_score_pool(model, [X]), 1e-10)
    assert len(compared) == 2


@pytest.mark.parametrize("name", ["forward", "more", "gain"])
@pytest.mark.parametrize("new", [False, True])
def test_so_is_one_whose_class_changed(model, compared, monkeypatch, name, new):
    """Also one that inherits what is changed."""
    scorer, was = GradNormScorer(model), getattr(Scaled, name)
    if new:
        model.__class__ = type("Inherits", (Scaled,), {})
    scorer.score_batch(X)
    monkeypatch.setattr(Scaled, name, 2.0 if name == "gain" else lambda self, x: was(self, x) * 2)
    assert_close_relative(scorer.score_batch(X), naive_score_pool(model, [X]), 1e-10)
    assert len(compared) == 2


def test_so_is_one_that_makes_tensors_of_another_dtype(compared):
    class Makes(nn.Linear):
        def forward(self, x):
            return super().forward(x * torch.full((4,), 0.1).double())

    torch.manual_seed(0)
    model, before = Makes(4, 3).double(), torch.get_default_dtype()
    scorer = GradNormScorer(model)
    scorer.score_batch(X)
    try:
        torch.set_default_dtype(torch.float64)
        assert_close_relative(scorer.score_batch(X), naive_score_pool(model, [X]), 1e-10)
    finally:
        torch.set_default_dtype(before)
    assert len(compared) == 2


@pytest.mark.slow
@pytest.mark.parametrize("other", [{"temperature": 2.0}, {"scheme": "entropy"}, {"verify": "all"}])
def test_so_is_one_with_other_options(model, compared, other):
    scorer = GradNormScorer(model)
    scorer.score_batch(X)
    scorer.options = replace(scorer.options, **other)
    options = {k: v for k, v in other.items() if k != "verify"}
    assert_close_relative(scorer.score_batch(X), naive_score_pool(model, [X], **options), 1e-10)
    assert len(compared) > 1


def test_so_is_one_that_is_called_under_autocast(compared):
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    scorer = GradNormScorer(model)
    scorer.score_batch(X.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scorer.score_batch(X.float())
    assert len(compared) == 2


@pytest.mark.slow
def test_so_is_one_whose_values_nobody_counts(compared):
    """Of inference mode."""
    with torch.inference_mode():
        scale = torch.ones(4)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    model.scale = scale
    scorer = GradNormScorer(model)
    for _ in range(3):
        scorer.score_batch(X.float())
    assert len(compared) == 3


@pytest.mark.slow
def test_samples_alone_are_seen_in_company_too(model, compared):
    """The second joins the first in a call of the model, as in a pool; the third is not seen."""
    scorer, want = GradNormScorer(model, params="last_layer"), naive_score_pool
    for i in range(3):
        row = X[i : i + 1]
        expected = want(model, [row], params=lambda name, _: name.startswith("layers.2"))
        assert_close_relative(scorer.score_batch(row), expected, 1e-10)
    assert len(compared) == 2


@pytest.mark.slow
def test_a_fault_is_seen_once_the_model_changed(model, monkeypatch):
    """Scores that are wrong only then: what was verified before does not stand for it."""
    scorer, make = GradNormScorer(model), Norms.make
    scorer.score_batch(X)

    def wrong(self, passes, plan, batch):
        made = make(self, passes, plan, batch)
        return replace(made, scores={name: 1.5 * values for name, values in made.scores.items()})

    monkeypatch.setattr(Norms, "make", wrong)
    write(model)
    with pytest.raises(VerificationError):
        scorer.score_batch(X)


@pytest.mark.slow
def test_copies_begin_anew_and_bytes_do_not_tell_of_calls(model, compared):
    scorer = GradNormScorer(model)
    before = pickle.dumps(scorer)
    scorer.score_batch(X)
    assert pickle.dumps(scorer) == before
    for other in (copy.copy(scorer), copy.deepcopy(scorer), pickle.loads(before)):
        other.score_batch(X)
    assert len(compared) >= 3


@pytest.mark.slow
def test_what_was_replaced_is_not_kept_alive(model):
    scorer = GradNormScorer(model)
    scorer.score_batch(X)
    gone = weakref.ref(model.layers[0]), weakref.ref(model.layers[2].weight)
    model.layers[0] = nn.Linear(4, 6).double()
    model.layers[2].weight = nn.Parameter(torch.randn(3, 6, dtype=torch.float64))
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_after_an_error_the_next_call_is_a_first_one(model, compared):
    scorer = GradNormScorer(model)
    scorer.score_batch(X)
    with pytest.raises(ValueError, match="NaN or infinite"):
        scorer.score_batch(torch.full((2, 4), float("nan"), dtype=torch.float64))
    with pytest.raises(Exception, match=r"mat1|shape|size"):
        scorer.score_batch(torch.ones(2, 5, dtype=torch.float64))
    scorer.score_batch(X)
    assert len(compared) == 2
