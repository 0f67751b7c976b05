"""Scores to a relative standard error, of models, beside the float64 loop."""

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, SlowPathWarning, naive_score_pool, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative, relative_errors
from tests.support.cases import (
    CASES,
    MLP,
    Custom,
    GroupNormCNN,
    center,
    linear,
    perturb,
    scale_head,
)

LABELS = ("expected", "expected_squared")


def scorer(model, **options):
    return GradNormScorer(model, **{"rtol": 0.02, "progress": False, **options})


@pytest.fixture
def many():
    """A model of 24 classes and its inputs, neither certain nor clueless."""
    model, x = perturb(GroupNormCNN(classes=24)), torch.randn(20, 2, 8, 8)
    center(model, x)
    scale_head(model, 25)
    return model, x


class TestAgainstTheReferee:
    @pytest.mark.slow
    @pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
    def test_scores_and_errors(self, many, reduction):
        model, x = many
        table = oracle.norms(model, oracle.ones(x))
        for schemes in ("expected", "expected_squared", oracle.SCHEMES):
            names = [schemes] if isinstance(schemes, str) else schemes
            found = scorer(model, scheme=names, reduction=reduction).score(x.split(7))
            for name in names:
                expected, actual = table.scores(name, reduction), found[name]
                if name == "entropy":
                    assert actual.standard_error is None
                    assert_close_relative(actual.values, expected, 1e-5, name)
                    continue
                errors = relative_errors(actual.values, expected)
                assert errors.square().mean().sqrt() < 0.025, name
                assert (actual.standard_error <= 0.0201 * actual.values).all()
                assert (errors * expected <= 5 * actual.standard_error + 1e-5 * expected).all()

    @pytest.mark.slow
    def test_pulls_back_less(self, many):
        model, x = many
        facts = scorer(model).score([x]).provenance
        assert 2 * len(x) <= facts["pull_backs"] < 0.7 * 24 * len(x)
        assert facts["options"]["rtol"] == 0.02

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["mlp", "transformer"])
    def test_confident_samples(self, name):
        model, x = CASES[name].confident()
        x = x[:8]
        with torch.no_grad():
            table = oracle.norms(model, oracle.ones(x), logits=model(x))
        actual = scorer(model, verify=False).score(x.split(3))
        errors = relative_errors(actual.values, table.scores("expected"))
        assert errors.square().mean().sqrt() < 0.02
        assert errors.max() < 0.1

    @pytest.mark.slow
    def test_an_rtol_that_takes_all_classes_is_exact(self, many):
        model, x = many
        actual = scorer(model, rtol=1e-12).score([x])
        assert_close_relative(actual.values, oracle.scores(model, oracle.ones(x)), 1e-5)
        assert actual.standard_error.eq(0).all()


class TestGuarantees:
    @pytest.mark.slow
    def test_a_score_depends_on_its_sample_alone(self, many):
        model, x = many
        together = scorer(model).score([x])
        backwards = scorer(model).score(x.flip(0).split(3))
        assert_close_relative(backwards.values.flip(0), together.values, 1e-5)
        assert_close_relative(backwards.standard_error.flip(0), together.standard_error, 1e-3)

    @pytest.mark.slow
    def test_the_same_bits_twice_and_others_for_another_seed(self, many):
        model, x = many
        first, again = (scorer(model, seed=3).score([x]).values for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, scorer(model, seed=4).score([x]).values)

    @pytest.mark.slow
    def test_a_sample_that_is_not_a_number_spoils_no_other(self, many):
        model, x = many
        whole = scorer(model).score([x]).values
        x = x.clone()
        x[4] = torch.nan
        spoilt = scorer(model, on_nonfinite="keep").score([x]).values
        assert spoilt[4].isnan()
        others = torch.arange(len(x)) != 4
        assert_close_relative(spoilt[others], whole[others], 1e-5)

    def test_classes_that_cannot_be(self):
        """Masked by -inf logits: no probability, no gradient, no draw."""
        mask = torch.zeros(12)
        mask[5:] = -torch.inf
        model = Custom(lambda m, x: m.head(m.body(x)) + mask, body=linear(6, 8), head=linear(8, 12))
        actual = scorer(model, verify=False).score([torch.randn(10, 6)])
        assert actual.values.isfinite().all()
        assert (actual.values > 0).all()

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")
    def test_samples_that_branch_apart(self):
        def forward(m, x):
            return m.a(x) if x.sum() > 0 else m.a(m.b(x))

        model = Custom(forward, a=linear(6, 15), b=linear(6, 6))
        x = torch.randn(16, 6)
        truth = oracle.scores(model, oracle.ones(x))
        actual = scorer(model).score(x.split(8))
        assert relative_errors(actual.values, truth).square().mean().sqrt() < 0.02

    def test_the_loop_is_exact(self):
        def forward(m, x):
            return m.a(torch.from_numpy(x.detach().numpy().cumsum(1))[:, 4:])  # not under vmap

        model = Custom(forward, a=linear(4, 9))
        x = torch.randn(5, 8)
        with pytest.warns(SlowPathWarning):
            actual = scorer(model, rtol=0.1, verify=False).score([x])
        assert_close_relative(actual.values, oracle.scores(model, oracle.ones(x)), 1e-5)
        assert actual.standard_error is None


class TestWhereItDoesNotMatter:
    @pytest.mark.slow
    @pytest.mark.parametrize("options", [{"scheme": "entropy"}, {"params": "last_layer"}])
    def test_what_is_cheap_stays_exact(self, many, options):
        model, x = many
        actual = scorer(model, **options).score([x])
        assert torch.equal(actual.values, scorer(model, rtol=0.0, **options).score([x]).values)
        assert actual.standard_error is None
        assert "pull_backs" not in actual.provenance

    @pytest.mark.parametrize("classes", [1, 2])
    def test_two_classes(self, classes):
        model, x = MLP(classes=classes), torch.randn(5, 10)
        actual = scorer(model, scheme=LABELS).score([x])
        for name, exact in scorer(model, scheme=LABELS, rtol=0.0).score([x]).items():
            assert torch.equal(actual[name].values, exact.values)
            assert actual[name].standard_error is None

    @pytest.mark.slow
    def test_the_naive_loop_is_exact(self, many):
        model, x = many[0], many[1][:2]
        assert torch.equal(naive_score_pool(model, [x], rtol=0.5), naive_score_pool(model, [x]))

    def test_few_label_maps_are_enumerated(self):
        model, x = MLP(classes=2), torch.randn(4, 10)
        options = {"likelihood": "bernoulli", "num_samples": 4}
        exact = scorer(model, rtol=0.0, **options).score([x])
        assert torch.equal(scorer(model, **options).score([x]).values, exact.values)


@pytest.mark.parametrize("score", [score_pool, naive_score_pool])
@pytest.mark.parametrize(
    "model, x, options",
    [
        (MLP(classes=9), torch.zeros(2, 10), {"likelihood": "bernoulli"}),
        (nn.Conv2d(2, 3, 1), torch.zeros(2, 2, 4, 4), {}),
    ],
    ids=["multi-label", "segmentation"],
)
def test_drawn_label_maps_refuse_rtol(score, model, x, options):
    with pytest.raises(ValueError, match=r"`rtol` must be 0 where labels .* Got 0\.02\. `num_samp"):
        score(model, [x], rtol=0.02, **options)
    scorer(model, scheme="entropy", **options).score([x])  # needs no labels
