"""Bernoulli labels: one, a few, and so many that label vectors are drawn."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import MLP

RTOL = 1e-5


def scores(model, batches, **options):
    return score_pool(model, batches, progress=False, **options)


class TestBernoulli:
    @pytest.mark.parametrize("params", ["all", "last_layer"])
    @pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
    @pytest.mark.parametrize("likelihood", ["auto", "bernoulli"])
    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    def test_single_logit_is_exact_as_two_classes(self, params, reduction, likelihood, temperature):
        model, x = MLP(classes=1), 3 * torch.randn(12, 10)
        with torch.no_grad():
            model.head.weight.mul_(20)
        actual = scores(
            model, x.split(5), scheme=oracle.SCHEMES, likelihood=likelihood, params=params,
            reduction=reduction, num_samples=1, temperature=temperature,
        )  # fmt: skip
        with torch.no_grad():
            logits = model(x)
        table = oracle.norms(
            model, oracle.ones(x), likelihood="bernoulli", logits=logits, temperature=temperature
        )
        for scheme in oracle.SCHEMES:
            expected = table.scores(
                scheme, reduction, lambda name: params == "all" or name.startswith("head")
            )
            assert_close_relative(actual[scheme], expected, 2e-5, scheme)

    @pytest.mark.parametrize("params", ["all", "last_layer"])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_confident_single_logit(self, params, sign):
        """Down to a doubt of 1e-30 on either side; the logit is the input, hence exactly known."""
        model = nn.Sequential(OrderedDict(head=nn.Linear(1, 1)))
        with torch.no_grad():
            model.head.weight.fill_(1.0)
            model.head.bias.zero_()
        x = sign * torch.tensor([[0.5], [3.0], [10.0], [20.0], [35.0], [69.0]])
        actual = scores(model, [x], scheme=oracle.SCHEMES, params=params)
        table = oracle.norms(model, oracle.ones(x), likelihood="bernoulli")
        for scheme in oracle.SCHEMES:
            assert_close_relative(actual[scheme], table.scores(scheme), RTOL, scheme)

    @pytest.mark.slow
    def test_squeezed_single_logit(self):
        """Logits [N] are single logits: nothing but their shape differs from [N, 1]."""

        class Squeezed(MLP):
            def forward(self, x):
                return super().forward(x).squeeze(1)

        model = Squeezed(classes=1)
        x = torch.randn(5, 10)
        table = oracle.norms(
            model, oracle.ones(x), likelihood="bernoulli", call=lambda m, s: m(s)[None]
        )
        for scheme in oracle.SCHEMES:
            actual = scores(model, x.split(2), scheme=scheme)
            assert_close_relative(actual, table.scores(scheme), RTOL, scheme)

    def test_single_logit_equals_two_classes_with_opposite_halves(self):
        """The entropy of a Bernoulli logit z is that of the two logits (0, z)."""
        one = nn.Linear(3, 1)
        x = torch.randn(4, 3)

        def two_logits(model, batch):
            z = model(batch)
            return torch.cat([torch.zeros_like(z), z], 1)

        bernoulli = scores(one, [x], scheme=oracle.SCHEMES)
        categorical = scores(one, [x], scheme=oracle.SCHEMES, forward=two_logits)
        for scheme in oracle.SCHEMES:
            assert_close_relative(bernoulli[scheme], categorical[scheme], 1e-6, scheme)

    @pytest.mark.parametrize("params", ["all", "last_layer"])
    @pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
    @pytest.mark.parametrize("labels, num_samples", [(2, 4), (3, 8), (3, 50)])
    def test_few_labels_are_enumerated_and_exact(self, params, reduction, labels, num_samples):
        model, x = MLP(classes=labels), torch.randn(6, 10)
        scorer = GradNormScorer(
            model, scheme=oracle.SCHEMES, likelihood="bernoulli", num_samples=num_samples,
            params=params, reduction=reduction, progress=False,
        )  # fmt: skip
        actual = scorer.score(x.split(4))
        table = oracle.norms(model, oracle.ones(x), likelihood="bernoulli")
        for scheme in oracle.SCHEMES:
            expected = table.scores(
                scheme, reduction, lambda name: params == "all" or name.startswith("head")
            )
            assert_close_relative(actual[scheme].values, expected, RTOL, scheme)
            error = actual[scheme].standard_error
            assert error is None or not error.any(), "an exact score has no standard error"

    @pytest.mark.parametrize("params", ["all", "last_layer"])
    @pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
    def test_entropy_of_many_labels_is_exact(self, params, reduction):
        model, x = MLP(classes=40), torch.randn(4, 10)
        actual = scores(
            model, [x], scheme="entropy", likelihood="bernoulli", params=params, reduction=reduction
        )
        for n in range(4):
            z = model(x[n : n + 1])
            loss = torch.distributions.Bernoulli(logits=z).entropy().mean()
            named = {k: p for k, p in model.named_parameters() if params == "all" or "head" in k}
            norms = torch.stack([g.norm() for g in torch.autograd.grad(loss, list(named.values()))])
            expected = norms.norm() if reduction == "global" else norms.sum()
            assert_close_relative(actual[n], expected, RTOL)


class TestSampledLabels:
    """Six labels: 64 label vectors, of which fewer are drawn."""

    @pytest.fixture
    def case(self):
        torch.manual_seed(5)
        model, x = MLP(classes=6), torch.randn(24, 10)
        return model, x, oracle.norms(model, oracle.ones(x), likelihood="bernoulli")

    @staticmethod
    def estimate(model, batches, seed=0, num_samples=32, scheme="expected", **options):
        scorer = GradNormScorer(
            model, scheme=scheme, likelihood="bernoulli", num_samples=num_samples, seed=seed,
            progress=False, verify=False, **options,
        )  # fmt: skip
        return scorer.score(batches)

    @pytest.mark.slow
    @pytest.mark.parametrize("params", ["all", "last_layer"])
    @pytest.mark.parametrize("scheme", ["expected", "expected_squared"])
    def test_within_five_standard_errors(self, case, scheme, params):
        model, x, table = case
        actual = self.estimate(model, x.split(9), scheme=scheme, params=params)
        truth = table.scores(scheme, "global", lambda n: params == "all" or n.startswith("head"))
        error = actual.standard_error.double()
        assert error.shape == truth.shape
        assert (error > 0).all()
        assert ((actual.values.double() - truth).abs() <= 5 * error).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("scheme", ["expected", "expected_squared"])
    def test_standard_error_is_honest_over_seeds(self, case, scheme):
        """The squared deviations, divided by the reported variances, average to about one."""
        model, x, table = case
        truth, ratios, means = table.scores(scheme), [], []
        for seed in range(30):
            actual = self.estimate(model, [x[:8]], seed=seed, scheme=scheme, num_samples=24)
            deviation = actual.values.double() - truth[:8]
            ratios.append((deviation / actual.standard_error.double()) ** 2)
            means.append(deviation / truth[:8])
        assert 0.5 < torch.stack(ratios).mean() < 2.0
        mean = torch.stack(means)
        bias = mean.mean() / (mean.mean(1).std() / len(mean) ** 0.5)
        assert bias.abs() < 4, "the estimate is biased"

    @pytest.mark.slow
    def test_seed_makes_it_repeatable_and_another_seed_differs(self, case):
        model, x, _ = case
        first, again, other = (self.estimate(model, [x], seed=s).values for s in (3, 3, 4))
        assert torch.equal(first, again)
        assert not torch.allclose(first, other, rtol=1e-4)

    @pytest.mark.slow
    def test_global_random_numbers_play_no_part(self, case):
        model, x, _ = case
        torch.manual_seed(1)
        first = self.estimate(model, [x]).values
        torch.manual_seed(2)
        assert torch.equal(self.estimate(model, [x]).values, first)

    @pytest.mark.slow
    @pytest.mark.parametrize("params", ["all", "last_layer"])
    def test_draws_do_not_depend_on_batch_size_or_order(self, case, params):
        model, x, _ = case
        whole = self.estimate(model, [x], params=params)
        order = torch.randperm(len(x))
        for size in (1, 7):
            split = self.estimate(model, x.split(size), params=params)
            mixed = self.estimate(model, x[order].split(size), params=params)
            assert_close_relative(split.values, whole.values, 1e-6)
            assert_close_relative(split.standard_error, whole.standard_error, 1e-4)
            assert_close_relative(mixed.values, whole.values[order], 1e-6)

    @pytest.mark.slow
    def test_more_draws_come_closer(self, case):
        model, x, table = case
        few, many = (self.estimate(model, [x], num_samples=n) for n in (4, 60))
        assert many.standard_error.mean() < 0.5 * few.standard_error.mean()
        truth = table.scores("expected")
        assert (many.values - truth).abs().mean() < (few.values - truth).abs().mean()
