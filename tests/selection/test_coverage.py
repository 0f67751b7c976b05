"""Greedy coverage: what it chooses, against plain loops over all pairs in float64."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from fastgradnorm._selection import given as given_module
from fastgradnorm._selection.coverage import Coverage, cover
from fastgradnorm._selection.covering import covering
from fastgradnorm._selection.free import Free
from fastgradnorm._selection.given import Given
from fastgradnorm._selection.herding import herding
from fastgradnorm._selection.kernel import ball, distance_quantile, gaussian, lifted
from fastgradnorm._selection.max_herding import max_herding
from fastgradnorm._selection.probcover import _radius
from fastgradnorm._selection.uncertainty_herding import uncertainty_herding


def drawn(n=60, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(6, d, generator=generator)
    places = torch.randint(6, (n,), generator=generator)
    return centers[places] + 0.4 * torch.randn(n, d, generator=generator)


def pool(k=6, n=60, labelled=4, **more):
    points = drawn(n + labelled)
    return Given(k, 3, Free(n), points=points[:n], labelled=points[n:], **more)


def brute(given, weights, width):
    """Each time the best of all by a loop; the sum over all candidates of what is covered best."""
    x = normalize(given.points.double(), dim=1)
    known, chosen = normalize(given.labelled.double(), dim=1), []
    for _ in range(given.k):
        values = []
        for i in range(len(x)):
            there = torch.cat([known, x[i : i + 1]])
            similar = torch.exp(-torch.cdist(x, there).square() / (2 * width**2))
            values.append(-1.0 if i in chosen else float((weights * similar.amax(1)).sum()))
        chosen.append(int(np.argmax(values)))
        known = torch.cat([known, x[chosen[-1:]]])
    return chosen


def ten_percent(given):
    x = normalize(given.points.double(), dim=1)
    return float(torch.quantile(torch.pdist(x), 0.1))


class TestAgainstALoop:
    @pytest.mark.slow
    def test_herding_weighs_by_score(self):
        scores = torch.rand(60, generator=torch.Generator().manual_seed(1)) ** 3
        given = pool(scores=scores)
        expected = brute(given, scores, ten_percent(given))
        assert herding(given).positions.tolist() == expected
        assert expected != brute(given, torch.ones(60), ten_percent(given))

    def test_max_herding_does_not(self):
        given = pool()
        expected = brute(given, torch.ones(60), ten_percent(given))
        assert max_herding(given).positions.tolist() == expected

    def test_cold(self):
        given = pool(labelled=0)
        expected = brute(given, torch.ones(60), ten_percent(given))
        assert max_herding(given).positions.tolist() == expected

    @pytest.mark.slow
    def test_uncertainty_herding_has_the_radius_of_what_is_labelled(self):
        margins = torch.rand(60, generator=torch.Generator().manual_seed(2))
        given = pool(margins=margins)
        width = float(torch.pdist(normalize(given.labelled.double(), dim=1)).min())
        expected = brute(given, margins, width)
        assert uncertainty_herding(given).positions.tolist() == expected
        assert expected != brute(given, margins, ten_percent(given))

    def test_two_labelled_at_one_place_are_no_radius(self):
        margins = torch.rand(60, generator=torch.Generator().manual_seed(2))
        given = pool(margins=margins)
        twice = Given(
            6, 3, Free(60), points=given.points, labelled=given.labelled[[0, 0, 1, 2, 3]],
            margins=margins,
        )  # fmt: skip
        expected = uncertainty_herding(given).positions
        assert torch.equal(uncertainty_herding(twice).positions, expected)

    def test_gains_are_what_each_adds(self):
        given = pool(scores=torch.rand(60, generator=torch.Generator().manual_seed(1)))
        made = herding(given)
        x = normalize(given.points.double(), dim=1)
        known = normalize(given.labelled.double(), dim=1)
        weights = given.scores.double() / given.scores.double().sum()
        width, total = ten_percent(given), []
        for step in range(7):
            there = torch.cat([known, x[made.positions[:step]]])
            similar = torch.exp(-torch.cdist(x, there).square() / (2 * width**2)).amax(1)
            total.append(float((weights * similar).sum()))
        assert torch.allclose(made.gains, torch.tensor(total).diff().double(), atol=1e-6)
        before, shares = covering(given, made.positions)
        assert 0 < before < before + sum(shares) < 1


def test_of_many_candidates_20000_seeded_ones_are_covered(monkeypatch):
    given = pool(n=200, scores=torch.ones(200))
    monkeypatch.setattr(given_module.Given.references, "__defaults__", (50,))
    places = given.references(200)
    assert len(places) == 50 == len(places.unique())
    x = normalize(given.points, dim=1)
    kernel = gaussian(distance_quantile(x, 0.1, given.generator()))
    plain = Coverage(
        x, x[places], torch.full((50,), 0.02), normalize(given.labelled, dim=1), kernel
    )
    best = int(plain.gains(torch.arange(200)).argmax())
    assert int(herding(given).positions[0]) == best


@pytest.mark.slow
def test_lazy_updates_choose_what_plain_greedy_does():
    points = normalize(drawn(1500, 6, 4), dim=1)
    weights = torch.rand(1500, generator=torch.Generator().manual_seed(0))
    kernel = gaussian(0.3)
    lazy = cover(
        Coverage(points, points, weights, points[:0], kernel), 25, Free(1500), points, points[:0]
    )
    plain = Coverage(points, points, weights, points[:0], kernel)
    for i in lazy.positions.tolist():
        gains = plain.gains(torch.arange(1500))
        assert gains[i] >= gains.max() * (1 - 1e-5)
        plain.add(i)


def test_looks_are_few(monkeypatch):
    points = normalize(drawn(2000, 6, 4), dim=1)
    looked = []
    gains = Coverage.gains
    monkeypatch.setattr(Coverage, "gains", lambda self, i: looked.append(len(i)) or gains(self, i))
    coverage = Coverage(points, points, torch.ones(2000), points[:0], gaussian(0.3))
    cover(coverage, 20, Free(2000), points, points[:0])
    assert looked[0] == 2000
    assert sum(looked[1:]) < 20 * 2000 / 3


def test_blocks_are_bounded(monkeypatch):
    from fastgradnorm._selection import coverage as module

    points = normalize(drawn(400, 6, 4), dim=1)
    whole = Coverage(points, points, torch.ones(400), points[:50], gaussian(0.3))
    expected = whole.gains(torch.arange(400))
    monkeypatch.setattr(module, "_BLOCK", 1000)
    sizes = []
    parts = Coverage(
        points, points, torch.ones(400), points[:50],
        lambda dots: sizes.append(dots.numel()) or gaussian(0.3)(dots),
    )  # fmt: skip
    assert torch.allclose(parts.gains(torch.arange(400)), expected, rtol=1e-4, atol=1e-5)
    assert max(sizes) <= 1000


def test_once_all_is_covered_the_farthest_are_chosen():
    points = normalize(torch.tensor([[1.0, 0], [1, 0.01], [1, 0.2], [0.9, 0.5], [1, -0.02]]), dim=1)
    coverage = Coverage(points, points, torch.ones(5), points[:0], ball(2.0))
    made = cover(coverage, 5, Free(5), points, points[:0])
    assert made.positions.tolist() == [0, 3, 2, 4, 1]
    assert made.gains.tolist() == [5, 0, 0, 0, 0]


@pytest.mark.parametrize("scores", [torch.zeros(60), torch.full((60,), torch.nan)])
def test_scores_that_tell_nothing_weigh_alike(scores):
    plain = max_herding(pool()).positions
    assert torch.equal(herding(pool(scores=scores)).positions, plain)


class TestKernels:
    def test_gaussian(self):
        a = normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=1)
        expected = torch.exp(-torch.cdist(a, a).square() / (2 * 0.7**2))
        rows, columns = lifted(a)
        assert torch.allclose(gaussian(0.7)(rows @ columns), expected, atol=1e-6)

    def test_ball(self):
        a = normalize(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), dim=1)
        rows, columns = lifted(a)
        assert torch.equal(ball(0.9)(rows @ columns), (torch.cdist(a, a) <= 0.9).float())

    def test_the_quantile_of_points_that_are_mostly_one(self):
        points = torch.cat([torch.ones(30, 2), torch.tensor([[1.0, 3.0]])])
        found = distance_quantile(normalize(points, dim=1), 0.1, np.random.default_rng(0))
        assert found == pytest.approx(float((normalize(points[[0, 30]], dim=1).diff(dim=0)).norm()))
        assert distance_quantile(torch.ones(9, 2), 0.1, np.random.default_rng(0)) == 1
        assert distance_quantile(torch.ones(1, 2), 0.1, np.random.default_rng(0)) == 1

    def test_the_radius_of_probcover_is_that_of_pure_balls(self):
        generator = torch.Generator().manual_seed(0)
        two = torch.cat(
            [torch.tensor([[1.0, 0, 0]]).expand(50, 3), torch.tensor([[0, 1.0, 0]]).expand(50, 3)]
        )
        given = Given(3, 0, Free(100), points=two + 0.01 * torch.randn(100, 3, generator=generator))
        units, _ = given.units()
        apart = torch.cdist(units[:50], units[50:])
        nearest = torch.cat([apart.amin(0), apart.amin(1)])
        pure = float((nearest > _radius(given, units, 2)).double().mean())
        assert pure == pytest.approx(0.95, abs=0.02)
