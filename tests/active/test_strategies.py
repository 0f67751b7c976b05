"""Each strategy: what it chooses, against plain computations."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastgradnorm
from fastgradnorm._selection.embedding import Outer, Rows, nearest_sq_distances
from fastgradnorm._selection.k_center import k_center
from fastgradnorm._selection.kmeans_pp import kmeans_pp
from fastgradnorm.active import Context, strategies, strategy
from fastgradnorm.active._outputs import outputs
from fastgradnorm.active._strategies import badge, features
from tests.support.small_task import SmallTask


def trained(dense):
    task = SmallTask(dense=dense, guarded=False)
    model = task.make_model(0)
    labelled = torch.utils.data.Subset(task.pool(), range(0, 60, 6))
    task.train(model, labelled, 0)
    return task, model.eval()


@pytest.fixture(scope="module")
def flat():
    return trained(dense=False)


@pytest.fixture(scope="module")
def dense():
    return trained(dense=True)


def context(trained, budget=7, seed=0, **changes):
    task, model = trained
    task.data.bought = set(range(0, 60, 6))  # any other label refuses to be read
    indices = torch.tensor([i for i in range(60) if i % 6])
    labelled = torch.arange(0, 60, 6)
    return Context(model, task.pool(), indices, labelled, budget, seed, 16, **changes)


def inputs(trained):
    given = context(trained)
    return given.pool.x[given.indices]


def test_nobody_looks_on_between_batches(flat):
    given = context(flat)
    for out in outputs(given, given.indices, features=True):
        assert out.features is not None
        assert torch.is_grad_enabled()
        assert not any(module._forward_hooks for module in given.model.modules())


# Of dense outputs, each source of scores and each rule once: a rule sees no outputs.
SOURCES = {name.rpartition("/")[0]: name for name in strategies()}.values()
DENSE = [name for name in strategies() if "/" not in name or name in SOURCES]
EACH = [*(("flat", name) for name in strategies()), *(("dense", name) for name in DENSE)]


@pytest.mark.parametrize("kind, name", EACH)
def test_every_strategy_chooses_distinct_candidates(name, kind, request):
    given = context(request.getfixturevalue(kind))
    if kind == "dense" and name == "bait":
        with pytest.raises(ValueError, match="takes several labels"):
            strategy(name).select(given)
        return
    chosen = strategy(name).select(given)
    assert chosen.shape == (7,)
    assert len(chosen.unique()) == 7
    assert torch.isin(chosen, given.indices).all()
    assert given.seconds["score"] > 0
    given = dataclasses.replace(given, score_options={"verify": False})
    # One plain pass rounds otherwise: of two candidates that are as good, either may be taken.
    again = strategy(name).select(given)
    assert int((again != chosen).sum()) <= 1
    assert torch.equal(strategy(name).select(given), again)
    assert not any(m._forward_hooks for m in given.model.modules())


@pytest.mark.parametrize("name", strategies())
def test_every_strategy_can_choose_everything(name, flat):
    given = context(flat, budget=50, score_options={"verify": False})
    assert strategy(name).select(given).sort().values.tolist() == given.indices.tolist()


class TestUncertainty:
    def probabilities(self, trained):
        with torch.no_grad():
            return trained[1](inputs(trained)).double().softmax(1)

    def expected(self, name, p):
        ordered = p.sort(1, descending=True).values
        return {
            "entropy": -(p * p.log()).sum(1),
            "margin": ordered[:, 1] - ordered[:, 0],
            "least_confidence": 1 - ordered[:, 0],
        }[name]

    @pytest.mark.parametrize("name", ["entropy", "margin", "least_confidence"])
    def test_classes(self, flat, name):
        scores = strategy(name).score(context(flat))
        assert torch.allclose(scores, self.expected(name, self.probabilities(flat)))
        chosen = strategy(name).select(context(flat))
        assert torch.equal(chosen, context(flat).indices[scores.argsort(descending=True)[:7]])

    @pytest.mark.parametrize("name", ["entropy", "margin", "least_confidence"])
    def test_dense_outputs_average_over_valid_positions(self, dense, name):
        expected = self.expected(name, self.probabilities(dense))  # [N, 6, 6]
        assert torch.allclose(strategy(name).score(context(dense)), expected.mean((1, 2)))
        valid = torch.rand(6, 6) < 0.5
        options = {"mask": lambda x: valid.expand(len(x), 6, 6)}
        masked = strategy(name).score(context(dense, score_options=options))
        assert torch.allclose(masked, expected[:, valid].mean(1))

    def test_one_logit_is_two_classes(self, flat):
        task, _ = flat
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 1))
        scores = strategy("entropy").score(context((task, model)))
        p = model(inputs(flat)).detach().double()[:, 0].sigmoid()
        assert torch.allclose(scores, -(p * p.log() + (1 - p) * (1 - p).log()))

    def test_options_of_the_task(self, flat):
        _, model = flat
        options = {"forward": lambda model, batch: model(batch)[:, None].mT, "temperature": 2.0}
        options["class_dim"] = 1
        scores = strategy("entropy").score(context(flat, score_options=options))
        p = (model(inputs(flat)) / 2).detach().double().softmax(1)
        assert torch.allclose(scores, -(p * p.log()).sum(1))

    def test_models_that_return_no_tensor(self, flat):
        model = nn.Module()
        model.register_parameter("p", nn.Parameter(torch.ones(1)))
        model.forward = lambda x: (x,)
        with pytest.raises(TypeError, match="that return logits"):
            strategy("entropy").score(context((flat[0], model)))


class TestGradnorm:
    @pytest.mark.slow
    def test_scores_are_the_engines(self, flat):
        expected = fastgradnorm.naive_score_pool(flat[1], [inputs(flat)], scheme="expected")
        scores = strategy("expected/all/top").score(context(flat))
        assert torch.allclose(scores, expected, rtol=1e-4)
        top = strategy("expected/all/top").select(context(flat))
        assert torch.equal(top, context(flat).indices[fastgradnorm.select(scores, 7)])

    @pytest.mark.slow
    def test_published(self, flat):
        options = {"scheme": "entropy", "reduction": "per_tensor"}
        expected = fastgradnorm.naive_score_pool(flat[1], [inputs(flat)], **options)
        assert torch.allclose(strategy("published").score(context(flat)), expected, rtol=1e-4)

    @pytest.mark.slow
    @pytest.mark.parametrize("draw", ["gumbel", "proportional", "diverse"])
    def test_draws_depend_on_the_seed(self, flat, draw):
        name = f"expected/last_layer/{draw}"
        first, second = (strategy(name).select(context(flat, seed=s)) for s in (0, 1))
        assert {*first.tolist()} != {*second.tolist()}

    @pytest.mark.slow
    def test_diverse_starts_with_the_best_and_weighs_by_score(self, flat):
        given = context(flat)
        points, weights = strategy("expected/all/diverse").score(given)
        assert torch.allclose(points.sq_norms, torch.ones(50, dtype=torch.float64))
        scores = strategy("expected/all/top").score(given)
        assert torch.allclose(weights, scores.double())
        assert strategy("expected/all/diverse").select(given)[0] == given.indices[scores.argmax()]


class TestCoreSet:
    def test_features_are_what_the_head_was_given(self, flat):
        with torch.no_grad():
            expected = flat[1][:-1](inputs(flat))
        given = context(flat)
        assert torch.allclose(features(given, given.indices), expected.double())

    def test_of_dense_outputs_the_mean_over_positions(self, dense):
        with torch.no_grad():
            expected = dense[1][:-1](inputs(dense)).mean((2, 3))
        given = context(dense)
        assert torch.allclose(features(given, given.indices), expected.double())

    def test_a_transposed_convolution_is_a_last_layer_too(self, dense):
        model = nn.Sequential(*dense[1][:-1], nn.ConvTranspose2d(6, 2, 2, stride=2)).eval()
        given = context((dense[0], model))
        with torch.no_grad():
            expected = model[:-1](inputs(dense)).mean((2, 3))
        assert torch.allclose(features(given, given.indices), expected.double())
        assert len(set(strategy("badge").select(given).tolist())) == 7

    def test_without_a_last_layer_it_is_refused(self, flat):
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Tanh())
        with pytest.raises(ValueError, match="come from a linear or convolutional layer"):
            strategy("coreset").select(context((flat[0], model)))
        reshaped = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Unflatten(1, (3, 1)))
        assert len(strategy("coreset").select(context((flat[0], reshaped)))) == 7

    def test_against_brute_force(self, flat):
        given = context(flat)
        points, labelled = (features(given, i) for i in (given.indices, given.labelled))
        centers, expected = list(labelled), []
        for _ in range(7):
            reach = [min(float((p - c).norm()) for c in centers) for p in points]
            expected.append(int(np.argmax(reach)))
            centers.append(points[expected[-1]])
        assert strategy("coreset").select(given).tolist() == given.indices[expected].tolist()


class TestBadge:
    def test_embedding_is_the_gradient_of_the_last_weight(self, flat):
        model, rows = copy.deepcopy(flat[1]).double(), []
        for x in inputs(flat).double().split(1):
            z = model(x)
            loss = F.cross_entropy(z, z.argmax(1))
            rows.append(torch.autograd.grad(loss, model[-1].weight)[0].flatten())
        exact = torch.stack(rows)
        points = badge(context(flat))
        assert isinstance(points, Outer)
        assert torch.allclose(points.sq_norms, exact.square().sum(1), rtol=1e-3)
        for i in (0, 31):
            assert torch.allclose(points.dots(i), exact @ exact[i], rtol=1e-3, atol=1e-8)

    def test_factored_and_materialised_choose_the_same(self):
        u, h = torch.randn(80, 5).double(), torch.randn(80, 7).double()
        whole = Rows((u[:, :, None] * h[:, None, :]).flatten(1))
        for seed in range(5):
            draws = (np.random.default_rng(seed) for _ in range(2))
            factored, materialised = (
                kmeans_pp(points, 40, draw)
                for points, draw in zip((Outer(u, h), whole), draws, strict=True)
            )
            assert torch.equal(factored, materialised)

    def test_dense_outputs_use_sketches_of_the_last_layer(self, dense):
        points = badge(context(dense))
        model, exact = dense[1], []
        for x in inputs(dense).split(1):
            z = model(x)
            loss = F.cross_entropy(z, z.argmax(1))
            grads = torch.autograd.grad(loss, [*model[-1].parameters()])
            exact.append(torch.cat([g.flatten() for g in grads]).double())
        norms = torch.stack(exact).square().sum(1)
        assert (points.sq_norms / norms - 1).abs().max() < 5 * (2 / 1024) ** 0.5


class TestKMeansPP:
    @pytest.mark.slow
    def test_chances_follow_squared_distances(self):
        points = Rows(torch.tensor([[9.0], [8.0], [7.0], [9.0]]).double())
        draws = [kmeans_pp(points, 2, np.random.default_rng(s)).tolist() for s in range(1500)]
        assert {first for first, _ in draws} == {0}
        share = sum(second == 2 for _, second in draws) / 1500
        assert abs(share - 0.8) < 4 * (0.8 * 0.2 / 1500) ** 0.5
        assert all(second in (1, 2) for _, second in draws)

    @pytest.mark.slow
    def test_weights_multiply_them(self):
        points = Rows(torch.tensor([[9.0], [8.0], [7.0]]).double())
        weights = torch.tensor([5.0, 4.0, 1.0]).double()
        draws = [kmeans_pp(points, 2, np.random.default_rng(s), weights) for s in range(1500)]
        share = sum(second == 2 for _, second in draws) / 1500
        assert abs(share - 0.5) < 4 * (0.25 / 1500) ** 0.5

    def test_duplicates_come_last(self):
        points = Rows(torch.tensor([[1.0, 0.0]] * 20 + [[0.0, 1.0], [0.0, -1.0]]).double())
        for seed in range(5):
            chosen = kmeans_pp(points, 22, np.random.default_rng(seed)).tolist()
            assert {*chosen[:3]} >= {20, 21}
            assert sorted(chosen) == list(range(22))


class TestKCenter:
    def test_within_twice_the_best_radius(self):
        for seed in range(5):
            rows = torch.randn(9, 2, generator=torch.Generator().manual_seed(seed)).double()
            distances = torch.cdist(rows, rows)

            def radius(centers, distances=distances):
                return float(distances[:, list(centers)].amin(1).max())

            best = min(radius(c) for c in itertools.combinations(range(9), 3))
            assert radius(k_center(Rows(rows), 3).tolist()) <= 2 * best + 1e-9

    def test_starts_with_the_largest_and_then_the_farthest(self):
        rows = Rows(torch.tensor([[1.0], [-5.0], [4.0], [-4.9]]).double())
        assert k_center(rows, 4).tolist() == [1, 2, 0, 3]

    def test_nearest_in_chunks(self):
        rows, others = torch.randn(25, 3).double(), torch.randn(4, 3).double()
        expected = torch.cdist(rows, others).amin(1).square()
        assert torch.allclose(nearest_sq_distances(rows, others, 7), expected)
