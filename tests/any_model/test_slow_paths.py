"""Models whose samples can only be scored one by one: exactly, with one warning that says why."""

import warnings

import pytest
import torch

from fastgradnorm import BatchDependenceWarning, SlowPathWarning, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, by_sample, linear
from tests.support.shared_models import Branching

# Samples that decide by values of their own decide for the whole batch in it: that is told.
pytestmark = pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")


class TestContinuousValues:
    """A branch that splits every sample apart ends in the plain loop, with one warning."""

    @staticmethod
    def model():
        def forward(m, x):
            return m.head(torch.tanh(m.body(x) * x.sum().item()))

        return Custom(forward, body=linear(4, 4), head=linear(4, 3))

    @pytest.mark.slow
    @pytest.mark.parametrize("size", [4, 12])
    def test_one_warning_and_exact_scores(self, size):
        model, x = self.model(), torch.randn(12, 4)
        expected = oracle.norms(model, oracle.ones(x))
        with pytest.warns(SlowPathWarning, match="branch") as caught:
            scores = score_pool(model, x.split(size), scheme=oracle.SCHEMES, progress=False)
        told = {w.category for w in caught}
        assert told == {SlowPathWarning, BatchDependenceWarning}
        assert len(caught) == 2
        for scheme in oracle.SCHEMES:
            assert_close_relative(scores[scheme], expected.scores(scheme), 1e-5, scheme)

    @pytest.mark.slow
    def test_samples_that_are_alike_share_a_group(self):
        """A pool of few distinct values is no reason for the slow path."""
        model, x = self.model(), torch.randn(3, 4).repeat(4, 1)
        expected = oracle.scores(model, oracle.ones(x))
        assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("truth", [
        lambda x: x[0, 0].relu(), lambda x: not x[0, 0].clamp_min(0), lambda x: any(x[0].relu()),
        lambda x: bool(x[:, 0].relu().sum()), lambda x: torch.is_nonzero(x[0, 0].relu()),
        lambda x: x[0, 0].relu() and x[0, 1].relu(), lambda x: len([t for t in x[0].relu() if t]),
        lambda x: x[0, 0].abs(), lambda x: not x.exp().sum(), lambda x: all(x[0].abs()),
    ])  # fmt: skip
    def test_numbers_of_which_only_the_truth_is_read_are_no_branch_each(self, truth):
        model, x = Branching(truth), torch.randn(24, 4)
        expected = oracle.scores(model, oracle.ones(x))
        assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)

    @pytest.mark.slow
    def test_batches_of_one_are_no_slower(self):
        model, x = self.model(), torch.randn(4, 4)
        expected = oracle.scores(model, oracle.ones(x))
        assert_close_relative(score_pool(model, x.split(1), progress=False), expected, 1e-5)

    @pytest.mark.slow
    def test_nan_takes_a_branch_of_its_own(self):
        model, x = Branching(lambda x: x.sum() > 0), torch.randn(7, 4)
        x[2] = float("nan")
        rest = [0, 1, 3, 4, 5, 6]
        expected = oracle.scores(model, oracle.ones(x[rest]))
        scores = score_pool(model, [x], on_nonfinite="keep", progress=False)
        assert scores[2].isnan()
        assert_close_relative(scores[rest], expected, 1e-5)

    @pytest.mark.slow
    def test_nan_as_the_value_branched_on(self):
        def forward(m, x):
            return m.head(torch.tanh(m.body(x) * x[:, 0].sum().round().item()))

        model, x = Custom(forward, body=linear(4, 4), head=linear(4, 3)), torch.randn(7, 4)
        x[[2, 3]] = float("nan")
        rest = [0, 1, 4, 5, 6]
        expected = oracle.scores(model, oracle.ones(x[rest]))
        scores = score_pool(model, [x], on_nonfinite="keep", progress=False)
        assert scores[[2, 3]].isnan().all()
        assert_close_relative(scores[rest], expected, 1e-5)


class TestWhatCannotBeBatched:
    @pytest.mark.slow
    def test_operations_without_a_rule_are_named_in_one_warning(self):
        """An autograd function that leaves PyTorch."""

        class Square(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return torch.from_numpy(x.numpy() ** 2)

            @staticmethod
            def backward(ctx, g):
                return 2 * g * ctx.saved_tensors[0]

        model = Custom(
            lambda m, x: m.head(Square.apply(m.body(x))), body=linear(4, 4), head=linear(4, 3)
        )
        x = torch.randn(6, 4)
        expected = oracle.scores(model, oracle.ones(x))
        with pytest.warns(SlowPathWarning, match=r"\w+") as caught:
            scores = score_pool(model, x.split(3), progress=False)
        assert len(caught) == 1
        assert_close_relative(scores, expected, 1e-5)

    @pytest.mark.parametrize("kind", ["nonzero", "mask", "unique"])
    def test_shapes_that_depend_on_the_sample(self, kind):
        """Exact in any case; the slow path is taken with its warning or not at all."""

        def forward(m, x):
            if kind == "nonzero":
                chosen = x[0, (x[0] > 0).nonzero()[:, 0]]
            elif kind == "mask":
                chosen = x[x > 0]
            else:
                chosen = x.sign().unique()
            return m.head(torch.tanh(m.body(x)) * (1 + chosen.sum()))

        model = Custom(by_sample(forward), body=linear(4, 4), head=linear(4, 3))
        x = torch.randn(6, 4)
        expected = oracle.scores(model, oracle.ones(x))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowPathWarning)
            scores = score_pool(model, x.split(3), progress=False)
        assert_close_relative(scores, expected, 1e-5)
