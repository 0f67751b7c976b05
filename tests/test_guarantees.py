"""A score depends on its sample alone, and a bad sample harms no other."""

import pytest
import torch

from fastgradnorm import NonFiniteScoreError, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import CASES

pytestmark = pytest.mark.slow

RTOL = 1e-6


def scores(model, batches, **options):
    return score_pool(model, batches, **{"progress": False, "verify": False} | options)


class TestScoresDependOnTheirSampleAlone:
    # Products of matrices of another size are rounded in another way. In float32 that may show in
    # scores that magnify it: where logits are small differences of large terms, as calibrated heads
    # make them, and behind GroupNorm, where each size is within 8e-7 of the truth and two are up to
    # 1.4e-6 apart. So 1e-6 is for models as initialised, and float64 tells the rest.

    @pytest.mark.parametrize("params", ["all", "last_layer"])
    @pytest.mark.parametrize("name", sorted(CASES.keys() - {"resnet18", "groupnorm-cnn"}))
    def test_batch_size_and_order(self, name, params):
        self.check_batch_size_and_order(*CASES[name].initial(), params, RTOL)

    @pytest.mark.parametrize("params", ["all", "last_layer"])
    @pytest.mark.parametrize("name", sorted(CASES.keys() - {"resnet18"}))
    def test_batch_size_and_order_in_float64(self, name, params):
        model, inputs = CASES[name].random()
        self.check_batch_size_and_order(
            model.double(), oracle.in_float64(inputs), params, rtol=1e-12
        )

    @staticmethod
    def check_batch_size_and_order(model, inputs, params, rtol):
        options = {"scheme": oracle.SCHEMES, "params": params}
        inputs = inputs[:29]  # batches of seven, and one of what is left
        whole = scores(model, [inputs], **options)
        order = torch.randperm(len(inputs))
        for size in (1, 7):
            split = scores(model, inputs.split(size), **options)
            shuffled = scores(model, inputs[order].split(size), **options)
            for scheme in oracle.SCHEMES:
                what = f"{scheme}, batches of {size}"
                assert_close_relative(split[scheme], whole[scheme], rtol, what)
                assert_close_relative(shuffled[scheme], whole[scheme][order], rtol, what)

    def test_batch_size_for_resnet18(self):
        model, inputs = CASES["resnet18"].initial()
        whole = scores(model, [inputs[:7]], scheme="entropy")
        split = scores(model, inputs[:7].flip(0).split(1), scheme="entropy")
        assert_close_relative(split.flip(0), whole, RTOL)

    def test_equal_inputs_give_equal_scores_and_the_same_call_the_same_bits(self):
        model, inputs = CASES["groupnorm-cnn"].random()
        first, second = (scores(model, inputs.split(16)) for _ in range(2))
        assert torch.equal(first, second)
        twins = scores(model, [inputs[:1].repeat(5, 1, 1, 1)])
        assert_close_relative(twins, twins[:1].expand(5), RTOL)

    def test_positions_of_different_batches_may_differ(self):
        """Nothing is cached from another shape: images of several sizes in one pool."""
        model = CASES["groupnorm-cnn"].random()[0]
        pool = [torch.randn(2, 2, side, side) for side in (8, 12, 6, 8)]
        expected = torch.cat([scores(model, [batch]) for batch in pool])
        assert_close_relative(scores(model, pool), expected, RTOL)
        table = torch.cat([oracle.scores(model, oracle.ones(batch)) for batch in pool])
        assert_close_relative(scores(model, pool), table, 1e-5)

    def test_empty_batches_have_no_scores(self):
        model, inputs = CASES["mlp"].random()
        expected = scores(model, [inputs[:5]])
        actual = scores(model, [inputs[:3], inputs[:0], inputs[3:5]])
        assert_close_relative(actual, expected, RTOL)

    def test_inputs_that_are_not_contiguous(self):
        model, inputs = CASES["padded-cnn"].random()
        expected = scores(model, [inputs[:6]])
        strided = inputs[:6].permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
        assert not strided.is_contiguous()
        assert_close_relative(scores(model, [strided]), expected, RTOL)


class TestNonFinite:
    @pytest.mark.parametrize("params", ["all", "last_layer"])
    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("name", ["mlp", "groupnorm-cnn", "padded-cnn", "transformer"])
    def test_a_bad_input_harms_only_its_own_score(self, name, bad, params):
        model, inputs = CASES[name].random()
        inputs = inputs[:7]
        options = {"scheme": oracle.SCHEMES, "params": params, "on_nonfinite": "keep"}
        bad_inputs = inputs.clone()
        bad_inputs[3] = bad
        rest = [0, 1, 2, 4, 5, 6]
        for size in (7, 2, 1):
            good = scores(model, inputs.split(size), **options)
            actual = scores(model, bad_inputs.split(size), **options)
            for scheme in oracle.SCHEMES:
                assert not actual[scheme][3].isfinite()
                assert_close_relative(actual[scheme][rest], good[scheme][rest], RTOL, scheme)

    @pytest.fixture
    def pool(self):
        model, inputs = CASES["mlp"].random()
        inputs = inputs[:10].clone()
        inputs[[4, 8]] = float("nan")
        return model, inputs.split(3)

    @pytest.mark.parametrize("scheme", ["expected", ["expected", "entropy"]])
    def test_raise_names_the_samples_and_loses_nothing(self, pool, scheme):
        with pytest.raises(NonFiniteScoreError, match=r"\b4\b.*\b8\b") as caught:
            scores(*pool, scheme=scheme)
        assert isinstance(caught.value, ValueError)
        assert list(caught.value.indices) == [4, 8]
        held = caught.value.scores
        held = held["expected"] if isinstance(held, dict) else held
        held = held if isinstance(held, torch.Tensor) else held.values
        kept = scores(*pool, on_nonfinite="keep")
        assert torch.equal(held, kept) or torch.allclose(held, kept, equal_nan=True)

    def test_raise_is_the_default_with_verification_of_a_bad_first_sample(self):
        model, inputs = CASES["mlp"].random()
        inputs[0] = float("nan")
        with pytest.raises(NonFiniteScoreError) as caught:
            score_pool(model, [inputs], progress=False)
        assert list(caught.value.indices) == [0]

    def test_warn_names_the_samples_and_returns_the_scores(self, pool):
        with pytest.warns(UserWarning, match=r"\b4\b.*\b8\b"):
            actual = scores(*pool, on_nonfinite="warn")
        assert actual.isnan().nonzero().flatten().tolist() == [4, 8]
