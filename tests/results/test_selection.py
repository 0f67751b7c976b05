"""From scores to the samples to label."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgradnorm import select

STRATEGIES = ("top", "gumbel", "proportional")
NAN = float("nan")


class TestTop:
    def test_best_first(self):
        assert select(torch.tensor([0.1, 3.0, 2.0, 0.5]), 3).tolist() == [1, 2, 3]

    def test_ties_go_to_the_lower_index(self):
        scores = torch.tensor([1.0, 2.0, 1.0, 2.0, 2.0, 1.0])
        assert select(scores, 6).tolist() == [1, 3, 4, 0, 2, 5]
        assert select(torch.ones(1000), 5).tolist() == [0, 1, 2, 3, 4]

    def test_infinity_comes_first_and_minus_infinity_last(self):
        scores = torch.tensor([1.0, -torch.inf, torch.inf, 0.0])
        assert select(scores, 4).tolist() == [2, 0, 3, 1]

    @pytest.mark.slow
    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, NAN]), min_size=1, max_size=20), st.data())
    def test_is_a_stable_sort_without_nan(self, values, data):
        valid = [i for i, v in enumerate(values) if v == v]
        k = data.draw(st.integers(0, len(valid)))
        expected = sorted(valid, key=lambda i: (-values[i], i))[:k]
        assert select(torch.tensor(values), k).tolist() == expected


class TestAnyStrategy:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_returns_distinct_indices_and_never_nan(self, strategy):
        scores = torch.rand(50)
        scores[[3, 7, 20]] = NAN
        for k in (0, 1, 10, 47):
            chosen = select(scores, k, strategy=strategy)
            assert chosen.dtype == torch.int64
            assert chosen.shape == (k,)
            assert len(set(chosen.tolist())) == k
            assert not {3, 7, 20} & set(chosen.tolist())

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_more_than_there_are_is_an_error(self, strategy):
        with pytest.raises(ValueError, match=r"`k` must be .*Got 5"):
            select(torch.rand(4), 5, strategy=strategy)

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_more_than_can_be_selected_is_an_error(self, strategy):
        scores = torch.tensor([1.0, NAN, 2.0])
        with pytest.raises(ValueError, match=r"`k` must be .*Got 3"):
            select(scores, 3, strategy=strategy)

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_all_of_them_in_some_order(self, strategy):
        chosen = select(torch.rand(12), 12, strategy=strategy, seed=3)
        assert sorted(chosen.tolist()) == list(range(12))

    @pytest.mark.parametrize("strategy", ["gumbel", "proportional"])
    def test_seed_repeats_the_draw_and_global_random_numbers_play_no_part(self, strategy):
        scores = torch.rand(100)
        state = torch.get_rng_state()
        first = select(scores, 20, strategy=strategy, seed=1)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(99)
        assert torch.equal(select(scores, 20, strategy=strategy, seed=1), first)
        assert not torch.equal(select(scores, 20, strategy=strategy, seed=2), first)

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_scores_are_not_changed_and_may_be_float64_or_require_grad(self, strategy):
        scores = torch.rand(10, dtype=torch.float64, requires_grad=True)
        kept = scores.detach().clone()
        assert select(scores, 3, strategy=strategy).shape == (3,)
        assert torch.equal(scores.detach(), kept)


class TestRandomStrategies:
    @staticmethod
    def frequencies(scores, strategy, draws=2000):
        first = torch.stack([select(scores, 1, strategy=strategy, seed=s)[0] for s in range(draws)])
        return torch.bincount(first, minlength=len(scores)) / draws

    @pytest.mark.slow
    def test_proportional_draws_with_probability_proportional_to_the_score(self):
        scores = torch.tensor([1.0, 0.0, 3.0, 6.0])
        actual = self.frequencies(scores, "proportional")
        assert actual[1] == 0
        assert torch.allclose(actual, scores / scores.sum(), atol=0.05)

    @pytest.mark.slow
    @pytest.mark.parametrize("strategy", ["gumbel", "proportional"])
    def test_higher_scores_are_drawn_more_often(self, strategy):
        actual = self.frequencies(torch.tensor([0.2, 1.0, 4.0]), strategy)
        assert actual[0] < actual[1] < actual[2]
        assert actual[2] < 1.0

    def test_zero_scores_are_never_drawn_in_proportion(self):
        scores = torch.zeros(20)
        scores[[4, 11]] = torch.tensor([1.0, 2.0])
        for seed in range(20):
            chosen = select(scores, 2, strategy="proportional", seed=seed)
            assert set(chosen.tolist()) == {4, 11}
        with pytest.raises(ValueError, match=r"`k` must be .*Got 3"):
            select(scores, 3, strategy="proportional")

    def test_gumbel_draws_zero_and_equal_scores_too(self):
        for scores in (torch.zeros(20), torch.eye(20)[3], -torch.rand(20)):
            chosen = select(scores, 20, strategy="gumbel")
            assert sorted(chosen.tolist()) == list(range(20))


@pytest.mark.parametrize(
    "scores, k, options, error, match",
    [
        (torch.rand(4), -1, {}, ValueError, "`k` must be .*Got -1"),
        (torch.rand(4), 1.5, {}, TypeError, "`k` must be .*Got float"),
        (torch.rand(4), True, {}, TypeError, "`k` must be .*Got bool"),
        (torch.rand(4), 2, {"strategy": "best"}, ValueError, "`strategy` must be .*Got 'best'"),
        (torch.rand(4), 2, {"seed": "now"}, TypeError, "`seed` must be .*Got str"),
        (torch.rand(4, 2), 2, {}, ValueError, r"`scores` must be .*\[4, 2\]"),
        ("scores", 2, {}, TypeError, "`scores` must be .*Got str"),
        (
            torch.tensor([-1.0, 1.0]),
            1,
            {"strategy": "proportional"},
            ValueError,
            "`scores` must be",
        ),
    ],
)
def test_wrong_arguments(scores, k, options, error, match):
    with pytest.raises(error, match=match):
        select(scores, k, **options)


class TestScoresOfAnyKind:
    @pytest.mark.parametrize(
        "scores",
        [
            np.array([1.0, 5.0, 3.0])[::-1],  # PyTorch has no negative strides
            np.array([3.0, 5.0, 1.0], dtype=">f8"),  # nor other orders of bytes
            np.array([3.0, 5.0, None], dtype=object),
            np.ma.array([3.0, 5.0, 9.0], mask=[False, False, True]),  # masked: not known
            np.ma.array([3, 5, 9], mask=[False, False, True]),
            np.array([3, 5, 1], dtype=np.float16),
        ],
        ids=["reversed", "big-endian", "objects", "masked", "masked integers", "half"],
    )
    def test_numbers(self, scores):
        assert select(scores, 2).tolist() == [1, 0]

    @pytest.mark.parametrize(
        "scores",
        [
            torch.tensor([1 + 1j, 2]),
            np.array([1j, 2]),
            [1j, 2],
            np.array(["1", "2"]),
            np.array(["2026-01-01"], dtype="M8[D]"),
            np.array(["a", None], dtype=object),
        ],
        ids=["complex", "complex array", "complex list", "texts", "dates", "objects"],
    )
    def test_what_is_no_number_has_no_order(self, scores):
        with pytest.raises(TypeError, match="`scores` must be a tensor or array"):
            select(scores, 1)
