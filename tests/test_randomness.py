"""Models that draw random numbers in eval mode: told by what they do, from whatever generator."""

import functools
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import (
    GradNormScorer,
    UnsupportedModelError,
    gradient_sketch,
    naive_score_pool,
    score_pool,
)
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb
from tests.support.unchanged import assert_unchanged, snapshot

# From an activation [1, 4] to another.
NOISE = {
    "torch-rand": lambda y: y + torch.rand(4).to(y),
    "torch-randn_like": lambda y: y + torch.randn_like(y),
    "torch-normal_": lambda y: y + torch.empty(4).normal_().to(y),
    "torch-dropout": lambda y: F.dropout(y),
    "torch-bernoulli": lambda y: y * torch.bernoulli(torch.full((4,), 0.5)).to(y),
    "torch-randperm": lambda y: y[:, torch.randperm(4)],
    "torch-multinomial": lambda y: y * torch.multinomial(torch.ones(4), 4).to(y),
    "torch-gumbel": lambda y: y * F.gumbel_softmax(y.detach()),
    "torch-distribution": lambda y: y + torch.distributions.Normal(0.0, 1.0).sample((4,)).to(y),
    "python-random": lambda y: y * (0.5 + random.random()),
    "python-gauss": lambda y: y + random.gauss(0.0, 1.0),
    "python-choice": lambda y: y * random.choice([1.0, 2.0, 3.0]),
    "numpy-rand": lambda y: y * (0.5 + float(np.random.rand())),
    "numpy-normal": lambda y: y + torch.as_tensor(np.random.randn(4)).to(y),
    "numpy-permutation": lambda y: y[:, torch.as_tensor(np.random.permutation(4))],
    "coin": lambda y: y if random.random() < 0.5 else torch.sin(y),
}  # fmt: skip
OWN = {
    "torch": (torch.Generator, lambda g, y: y + torch.rand(4, generator=g).to(y)),
    "python": (random.Random, lambda g, y: y * (0.5 + g.random())),
    "python, a little": (random.Random, lambda g, y: y + 1e-4 * g.random()),
    "python, a coin": (random.Random, lambda g, y: y if g.random() < 0.5 else torch.sin(y)),
    "the system": (random.SystemRandom, lambda g, y: y * (0.5 + g.random())),
    "numpy": (np.random.default_rng, lambda g, y: y * (0.5 + float(g.random()))),
    "numpy, a coin": (np.random.default_rng, lambda g, y: y * g.choice([1.0, 2.0])),
    "legacy": (np.random.RandomState, lambda g, y: y * (0.5 + float(g.rand()))),
    "bits": (np.random.PCG64, lambda g, y: y * (1 + g.random_raw() % 2)),
}
HELD = ("closure", "attribute", "private", "list", "object", "private object", "partial", "default")


def noisy(noise, layer=None):
    def forward(m, x):
        return m.head(torch.tanh(m.noise(m.body(x))))

    model = Custom(forward, body=linear(4, 4), head=linear(4, 3))
    model.noise = Custom(lambda m, y: noise(y))
    return model


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE.keys())
@pytest.mark.parametrize("score", [
    lambda model, x: score_pool(model, [x], progress=False),
    lambda model, x: score_pool(model, x.split(1), verify=False, progress=False),
    lambda model, x: score_pool(model, [x], params="last_layer", verify=False, progress=False),
    lambda model, x: naive_score_pool(model, [x]),
    lambda model, x: gradient_sketch(model, [x], dim=4, progress=False),
], ids=["pool", "ones", "last-layer", "naive", "sketch"])  # fmt: skip
def test_noise_is_refused_with_the_layers_name(noise, score):
    model, x = noisy(noise), torch.randn(1, 4).expand(4, -1).clone()
    before = snapshot(model)
    with pytest.raises(UnsupportedModelError, match=r"`model.noise` \(Custom\) draws random numb"):
        score(model, x)
    assert_unchanged(before, model)


class Holder:
    def __init__(self, generator):
        self.generator = generator


def held(place, generator, noise):
    """A model that draws from a generator which it holds in some place."""
    if place == "partial":
        return noisy(functools.partial(noise, generator))
    if place == "closure":
        return noisy(lambda y: noise(generator, y))
    if place == "default":
        return noisy(lambda y, g=generator: noise(g, y))
    holder = Holder(generator)
    name = "_held" if "private" in place else "held"
    value = holder if "object" in place else [0, generator] if place == "list" else generator
    model = noisy(lambda y: noise(generator, y))
    model.noise = Custom(lambda m, y: noise(_inside(getattr(m, name)), y))
    setattr(model.noise, name, value)
    return model


def _inside(value):
    value = value[1] if isinstance(value, list) else value
    return value.generator if isinstance(value, Holder) else value


@pytest.mark.parametrize("make, noise", OWN.values(), ids=OWN.keys())
@pytest.mark.parametrize("place", HELD)
def test_generators_of_a_models_own(make, noise, place):
    """Each time: of a hundred pairs of draws one is so near that logits agree but for rounding."""
    model, x = held(place, make(), noise), torch.randn(4, 4)
    for score in (score_pool, naive_score_pool):
        with pytest.raises(UnsupportedModelError, match=r"draws random numbers from `.+` in eval"):
            score(model, [x], progress=False) if score is score_pool else score(model, [x])


@pytest.mark.parametrize("make", [random.Random, np.random.default_rng, np.random.RandomState])
def test_a_generator_is_left_as_it_was_where_a_model_is_refused(make):
    generator, twin = make(3), make(3)
    model = noisy(lambda y: y + float(generator.random()))
    with pytest.raises(UnsupportedModelError, match="`generator`"):
        score_pool(model, [torch.randn(4, 4)], progress=False)
    assert generator.random() == twin.random()


@pytest.mark.parametrize("make", [random.Random, np.random.default_rng])
@pytest.mark.parametrize("late, size", [(1, 2), (3, 1), (3, 2)])
def test_own_generators_that_later_samples_meet(make, late, size):
    generator = make(0)

    def forward(m, x):
        y = m.body(x)
        noise = generator.random() if (x[:, 0] > 0).all() else 0.0
        return m.head(torch.tanh(y + noise))

    model, x = Custom(forward, body=linear(4, 4), head=linear(4, 3)), torch.randn(6, 4)
    x[:, 0] = -1.0
    x[late:, 0] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UnsupportedModelError, match="draws random numbers"):
            score_pool(model, x.split(size), progress=False, verify=False)


@pytest.mark.parametrize("make", [random.Random, np.random.default_rng])
def test_own_generators_whose_numbers_are_used_in_training_only(make):
    generator = make(0)

    def forward(m, x):
        skipped = generator.random() < 0.5 and m.training
        return m.head(x if skipped else torch.tanh(m.body(x)))

    model, x = Custom(forward, body=linear(4, 4), head=linear(4, 3)).eval(), torch.randn(6, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score_pool(model, x.split(2), progress=False)
    assert_close_relative(scores, oracle.scores(model, oracle.ones(x)), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [NOISE[name] for name in (
    "torch-rand", "torch-dropout", "python-random", "numpy-rand", "numpy-normal",
)])  # fmt: skip
# In a batch of its own, in the midst of one and at its end, with all others and among some.
@pytest.mark.parametrize("late, size", [(1, 2), (3, 1), (5, 6), (3, 2), (1, 6)])
def test_noise_that_later_samples_meet(noise, late, size):
    """The plan is made from one that meets none."""

    def forward(m, x):
        y = m.body(x)
        return m.head(torch.tanh(noise(y) if (x[:, 0] > 0).all() else y))

    model, x = Custom(forward, body=linear(4, 4), head=linear(4, 3)), torch.randn(6, 4)
    x[:, 0] = -1.0
    x[late:, 0] = 1.0
    for options in ({}, {"verify": False}, {"params": "last_layer"}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(UnsupportedModelError, match="draws random numbers"):
                score_pool(model, x.split(size), progress=False, **options)


@pytest.mark.parametrize("draw", [
    lambda: torch.rand(()), lambda: random.uniform(0, 1), lambda: np.random.uniform(),
    lambda: nn.Linear(2, 2), lambda: torch.randperm(5), lambda: random.shuffle([1, 2, 3]),
])  # fmt: skip
class TestIdleDraws:
    """Numbers that are drawn in eval mode and used in training only, as by layer drop."""

    @staticmethod
    def model(draw):
        def forward(m, x):
            for layer in (m.body, m.other):
                skipped = draw()
                if not (m.training and skipped is not None):
                    x = torch.tanh(layer(x))
            return m.head(x)

        return Custom(forward, body=linear(4, 4), other=linear(4, 4), head=linear(4, 3))

    @pytest.mark.slow
    def test_scores_are_exact_and_fast(self, draw):
        model, x = self.model(draw), torch.randn(6, 4)
        expected, before = oracle.scores(model, oracle.ones(x)), snapshot(model)
        for batches in ([x], x.split(2), x.split(1)):
            for verify in (True, False):
                scores = score_pool(model, batches, verify=verify, progress=False)
                assert_close_relative(scores, expected, 1e-5)
        assert_close_relative(naive_score_pool(model, [x]), expected, 1e-5)
        assert gradient_sketch(model, [x], dim=4, progress=False).isfinite().all()
        after = snapshot(model)
        assert before["rng"] == after["rng"]
        assert before["numpy rng"] == after["numpy rng"]
        assert before["python rng"] == after["python rng"]

    def test_explanation(self, draw):
        explanation = GradNormScorer(self.model(draw), progress=False).explain(torch.randn(6, 4))
        assert "loop" not in {row.rule for row in explanation.rows}


def test_numbers_that_are_seeded_by_the_model_are_no_noise():
    def forward(m, x):
        torch.manual_seed(3)
        return m.head(torch.tanh(m.body(x) + torch.randn(4).to(x)))

    model, x = Custom(forward, body=linear(4, 4), head=linear(4, 3)), torch.randn(6, 4)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        noise = torch.randn(4)
    plain = Custom(
        lambda m, x: m.head(torch.tanh(m.body(x) + noise.to(x))), body=model.body, head=model.head
    )
    expected = oracle.scores(plain, oracle.ones(x))
    assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.Dropout1d(0.5)])
def test_layers_that_are_quiet_in_eval_mode(layer):
    model = perturb(nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 3))).train()
    x = torch.randn(6, 4)
    expected = oracle.scores(model, oracle.ones(x))
    assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)


def test_no_error_text_decides(monkeypatch):
    """PyTorch's own words about random operations under vmap, worded anew."""
    model, x = noisy(NOISE["torch-rand"]), torch.randn(4, 4)
    real = torch.rand

    def rand(*args, **kwargs):
        try:
            return real(*args, **kwargs)
        except RuntimeError as error:
            raise RuntimeError("no chance here") from error

    monkeypatch.setattr(torch, "rand", rand)
    with pytest.raises(UnsupportedModelError, match="draws random numbers"):
        score_pool(model, [x], verify=False, progress=False)
