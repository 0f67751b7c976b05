"""Every strategy takes the task's options, the cycle's seed, and the model as it is to be used."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastgradnorm
from fastgradnorm._selection.embedding import Rows
from fastgradnorm._selection.kmeans_pp import kmeans_pp
from fastgradnorm.active import ActiveLearner, Context, strategies, strategy
from tests.support.small_task import OPTIONS, SmallTask

BY_MODEL = [name for name in strategies() if name != "random"]
# One of each way to read the model.
KINDS = [
    "entropy", "margin", "least_confidence", "coreset", "badge", "published", "expected/all/top",
    "entropy_gradnorm/last_layer/proportional", "expected/all/diverse",
    "sketch/predicted/all/kmeans++", "sketch/entropy/last_layer/kcenter",
]  # fmt: skip
UNCERTAIN = ["entropy", "margin", "least_confidence"]


class Pool(torch.utils.data.Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], 0


def context(model, x, budget=4, seed=0, **options):
    indices, labelled = torch.arange(len(x) - 3), torch.arange(len(x) - 3, len(x))
    return Context(model, Pool(x), indices, labelled, budget, seed, 8, score_options=options)


def numbers(scored):
    """What a strategy has computed, as tensors, whatever it is."""
    if isinstance(scored, torch.Tensor):
        return [scored]
    if isinstance(scored, tuple):
        return [t for part in scored if part is not None for t in numbers(part)]
    return [t for t in vars(scored).values() if isinstance(t, torch.Tensor)]


def alike(first, second):
    pairs = list(zip(numbers(first), numbers(second), strict=True))
    assert pairs
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-4) for a, b in pairs)


@pytest.fixture
def flat():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)), torch.randn(20, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_forward_and_temperature(flat, name):
    """By `forward`, of a model that alone would fail; a temperature of 3 is a third of the head."""
    model, x = flat

    class Asking(nn.Sequential):
        def forward(self, batch, please):
            return {"no logits": super().forward(batch)}

    def forward(model, batch):
        return model(batch, True)["no logits"]

    asking = Asking(*model)
    plain = strategy(name).score(context(model, x))
    assert alike(strategy(name).score(context(asking, x, forward=forward)), plain)
    warm = context(asking, x, forward=forward, temperature=3.0)
    if name in UNCERTAIN:
        colder = copy.deepcopy(model)
        with torch.no_grad():
            colder[2].weight.div_(3), colder[2].bias.div_(3)
        assert alike(strategy(name).score(warm), strategy(name).score(context(colder, x)))
    elif name not in ("coreset", "badge"):  # which look at no temperature
        assert not alike(strategy(name).score(warm), plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_class_dimension_at_the_end(name):
    first = nn.Sequential(nn.Conv1d(2, 4, 1), nn.Tanh(), nn.Conv1d(4, 3, 1))
    x = torch.randn(15, 2, 5)

    def last(model, batch):
        return model(batch).movedim(1, -1)

    expected = strategy(name).score(context(first, x, forward=lambda model, batch: model(batch)))
    if name in ("coreset", "badge"):
        return
    actual = strategy(name).score(context(first, x, forward=last, class_dim=-1))
    assert alike(actual, expected)
    assert not alike(strategy(name).score(context(first, x, forward=last)), expected)


@pytest.mark.parametrize("name", UNCERTAIN)
@pytest.mark.parametrize("masked", [False, True])
def test_independent_labels(name, masked):
    """Each a choice between two classes; of those that a mask leaves, the mean."""
    model = nn.Sequential(nn.Conv1d(2, 4, 1), nn.Tanh(), nn.Conv1d(4, 3, 1))
    x, valid = torch.randn(15, 2, 5), torch.tensor([True, False, True, True, False])
    options = {"likelihood": "bernoulli"}
    if masked:
        options["mask"] = lambda batch: valid.expand(len(batch), 5)
    with torch.no_grad():
        z = model(x[:12]).double().movedim(1, -1)
    p = z.sigmoid()
    each = {
        "entropy": -(p * F.logsigmoid(z) + (1 - p) * F.logsigmoid(-z)),
        "margin": -(2 * p - 1).abs(),
        "least_confidence": 1 - torch.maximum(p, 1 - p),
    }[name]
    expected = (each[:, valid] if masked else each).mean((1, 2))
    assert torch.allclose(strategy(name).score(context(model, x, **options)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith("sketch")])
def test_sketches_are_those_of_the_options_and_of_the_seed(flat, name):
    model, x = flat
    _, scheme, params, _ = name.split("/")
    for seed in (0, 5):
        points = strategy(name).score(context(model, x, seed=seed))
        points = points[0] if isinstance(points, tuple) else points
        expected = fastgradnorm.gradient_sketch(
            model, [x[:17]], 512, scheme=scheme, params=params, seed=seed, progress=False
        )
        assert torch.allclose(points.rows, expected.double(), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("params", ["all", "last_layer"])
def test_directions_of_diverse_strategies_are_over_their_parameters(flat, params):
    model, x = flat
    points, _ = strategy(f"expected/{params}/diverse").score(context(model, x, seed=2))
    options = {"scheme": "predicted", "params": params, "seed": 2, "progress": False}
    rows = fastgradnorm.gradient_sketch(model, [x[:17]], 512, **options).double()
    assert torch.allclose(points.rows, F.normalize(rows, dim=1), rtol=1e-4)


def test_weights_tell_beyond_the_first(flat):
    """k-means++ that forgot the weights would choose the far ones whatever their score."""
    rows = torch.eye(6).double()
    weights = torch.tensor([2.0, 1.0, 0.0, 0.0, 0.0, 1.0]).double()
    for seed in range(10):
        chosen = kmeans_pp(Rows(rows), 3, np.random.default_rng(seed), weights)
        assert sorted(chosen.tolist()) == [0, 1, 5]


@pytest.mark.filterwarnings("ignore::fastgradnorm.DoubtfulScoresWarning")
@pytest.mark.parametrize("name", BY_MODEL)
def test_zero_scores_do_not_end_a_run(name):
    """A model that is certain of everything: any choice will do."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([1e4, 0, 0, 0]))
    chosen = strategy(name).select(context(model, torch.randn(20, 6)))
    assert len(set(chosen.tolist())) == 4


class Careless(SmallTask):
    """Leaves its model as training left it, with dropout on and statistics that move."""

    def make_model(self, seed):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(8, 3),
        )  # fmt: skip

    def evaluate(self, model):
        found = super().evaluate(model)
        model.train()
        return found


@pytest.mark.parametrize("name", ["entropy", "badge", "coreset", "expected/all/top"])
def test_strategies_see_the_model_in_eval_mode(name, monkeypatch):
    seen = []
    real = strategy(name).select

    class Spy(fastgradnorm.active.Strategy):
        def __init__(self):
            self.name = name

        def score(self, context):
            assert not any(module.training for module in context.model.modules())
            statistics = context.model[2].running_mean.clone()
            seen.append(real(context))
            assert torch.equal(context.model[2].running_mean, statistics)

        def pick(self, context, scored):
            return torch.isin(context.indices, seen[-1]).nonzero()[:, 0]

    options = {**OPTIONS, "cycles": 1}
    ActiveLearner(Careless(), Spy(), **options).run()
    assert len(seen) == 1
