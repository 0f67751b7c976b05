"""Draws of classes and the estimates made of them, without a model."""

import pytest
import torch

from fastgradnorm._schemes.draws import counts_for, draw, line
from fastgradnorm._schemes.estimate import Partial
from fastgradnorm._schemes.objective import Objective
from fastgradnorm._schemes.posterior import cotangent_sizes, posterior
from tests.support.asserts import assert_close_relative

GRID = 4000  # values of u over which an expectation is taken


def weights(n, c, spread):
    return (spread * torch.randn(n, c, dtype=torch.float64)).exp()


def counts(n, value):
    return torch.full((n,), value)


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("count", [1, 2, 5, 11, 12])
def test_the_estimate_is_unbiased_whatever_the_ratios(spread, count):
    w = weights(1, 12, spread)
    y = w * (0.1 + torch.rand(1, 12, dtype=torch.float64))
    u = (torch.arange(GRID) + 0.5) / GRID
    drawn = draw(line(w.expand(GRID, -1)), counts(GRID, count), u)
    estimates = (drawn.factors * y.expand(GRID, -1).gather(1, drawn.classes)).sum(1)
    assert abs(float(estimates.mean() - y.sum())) < 2e-3 * float(y.sum())
    assert all(len(set(row)) == count for row in drawn.classes.tolist()), "a class came twice"


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_the_variance_is_that_of_terms_with_independent_ratios(spread):
    w = weights(1, 30, spread).expand(GRID, -1)
    y = w * (1 + 0.2 * torch.randn(GRID, 30, dtype=torch.float64))
    drawn = draw(line(w), counts(GRID, 8), torch.rand(GRID))
    errors = (drawn.factors * y.gather(1, drawn.classes)).sum(1) - y.sum(1)
    expected = 0.2**2 * float(drawn.variance[0])
    assert 0.9 * expected < float(errors.square().mean()) < 1.1 * expected


def test_all_classes_that_carry_weight_are_exact():
    w = weights(3, 9, 1.0)
    w[:, 4:] = 0
    drawn = draw(line(w), counts(3, 4), torch.rand(3))
    assert drawn.classes.sort(1).values.tolist() == [[0, 1, 2, 3]] * 3
    assert drawn.factors.eq(1).all()
    assert drawn.variance.eq(0).all()


def test_samples_of_different_counts_are_drawn_as_if_alone():
    w, u, n = weights(4, 20, 1.0), torch.rand(4), torch.tensor([2, 9, 20, 5])
    together = draw(line(w), n, u)
    for i, count in enumerate(n.tolist()):
        alone = draw(line(w[i : i + 1]), n[i : i + 1], u[i : i + 1])
        assert torch.equal(together.classes[i, :count], alone.classes[0])
        assert torch.equal(together.factors[i, :count], alone.factors[0])
        assert together.factors[i, count:].eq(0).all()


def test_counts_are_the_smallest_that_suffice():
    w = weights(6, 25, 1.0)
    ordered, goal = line(w), w.sum(1).square() * torch.logspace(-1, -5, 6, dtype=torch.float64)
    by_count = [draw(ordered, counts(6, n), torch.rand(6)).variance for n in range(1, 26)]
    expected = [next(n for n in range(1, 26) if by_count[n - 1][i] <= goal[i]) for i in range(6)]
    assert counts_for(ordered, goal, 1).tolist() == expected
    assert counts_for(ordered, goal, 7).tolist() == [max(7, n) for n in expected]


def rounds(logits, norms, powers, rtol=0.02, seed=0):
    """The estimates and the number of pull-backs of each sample."""
    uniform = Objective(tuple(powers), "categorical", 1, seed, rtol).uniform
    partial, pulled = Partial(posterior(logits), powers, rtol, uniform), torch.zeros(len(logits))
    while len(partial.open):
        at, drawn = partial.open, partial.draw()
        assert drawn.numbers == drawn.counts.tolist() == (drawn.factors > 0).sum(1).tolist()
        pulled[at] += drawn.counts
        partial.add(drawn, norms[at].gather(1, drawn.classes))
    return partial, pulled


def table(n, c, spread, sharpness):
    """Logits, and norms that are what the last layer tells but for independent factors."""
    logits = sharpness * torch.randn(n, c, dtype=torch.float64)
    factors = (spread * torch.randn(n, c, dtype=torch.float64)).exp()
    return logits, cotangent_sizes(posterior(logits)) * factors


@pytest.mark.slow
@pytest.mark.parametrize("powers", [{"expected": 1}, {"expected_squared": 2}])
@pytest.mark.parametrize("classes, sharpness", [(10, 2.0), (300, 2.5)])
def test_errors_are_within_rtol_and_honest(classes, sharpness, powers):
    logits, norms = table(2000, classes, 0.15, sharpness)
    partial, pulled = rounds(logits, norms, powers)
    ((scheme, power),) = powers.items()
    truth = (posterior(logits).p * norms**power).sum(1)
    score, error = partial.scores[scheme], partial.errors[scheme]
    assert (error <= 0.02 * score).all()
    drawn = error > 0
    assert_close_relative(score[~drawn], truth[~drawn], 1e-12, "all classes taken")
    ratios = ((score - truth) / error)[drawn].abs()
    assert 0.63 < (ratios < 1).double().mean() < 0.73 + 0.05 * (power == 2)
    assert 0.90 < (ratios < 2).double().mean() <= 1.0
    assert abs(float(((score - truth) / truth).mean())) < 2e-3, "biased"
    assert pulled.mean() < 0.75 * classes


@pytest.mark.slow
def test_the_mean_over_seeds_is_the_score():
    """Stopping where the error looks small enough biases by a small part of it at most."""
    logits, norms = table(30, 60, 0.3, 2.0)
    truth = (posterior(logits).p * norms).sum(1)
    runs = [rounds(logits, norms, {"expected": 1}, seed=seed)[0].scores for seed in range(50)]
    errors = torch.stack([run["expected"] for run in runs]) / truth - 1
    assert float(errors.std()) > 0.01, "nothing was drawn"
    assert abs(float(errors.mean())) < 4e-3


def test_both_schemes_together_meet_rtol():
    logits, norms = table(500, 40, 0.15, 2.0)
    partial, _ = rounds(logits, norms, {"expected_squared": 2, "expected": 1})
    for scheme, power in partial.powers.items():
        truth = (posterior(logits).p * norms**power).sum(1)
        errors = (partial.scores[scheme] - truth) / truth
        assert (partial.errors[scheme] <= 0.02 * partial.scores[scheme]).all()
        assert float(errors.square().mean().sqrt()) < 0.02
        assert abs(float(errors.mean())) < 3e-3


def test_wild_ratios_cost_more_pull_backs_and_are_told():
    """Nothing is taken for granted: where norms differ much, more classes are pulled back."""
    logits, tame = table(400, 100, 0.1, 2.0)
    _, wild = table(400, 100, 0.6, 0.0)
    few = rounds(logits, tame, {"expected": 1})[1].mean()
    partial, many = rounds(logits, wild, {"expected": 1})
    assert many.mean() > 1.5 * few
    truth = (posterior(logits).p * wild).sum(1)
    assert float(((partial.scores["expected"] - truth) / truth).square().mean().sqrt()) < 0.03


def test_draws_differ_by_seed_and_not_by_company():
    logits, norms = table(50, 100, 0.3, 2.0)
    first = rounds(logits, norms, {"expected": 1})[0].scores["expected"]
    other = rounds(logits, norms, {"expected": 1}, seed=1)[0].scores["expected"]
    part = rounds(logits[20:30], norms[20:30], {"expected": 1})[0].scores["expected"]
    assert torch.equal(part, first[20:30])
    assert (other != first).double().mean() > 0.9
