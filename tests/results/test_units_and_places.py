"""Selections depend on no unit of the scores, and name samples by their places in the pool."""

import pytest
import torch

from fastgradnorm import GradNormScorer, NonFiniteScoreError, PoolScores, select
from fastgradnorm._results.nonfinite import tell_nonfinite
from tests.results.test_export import WRITERS, read

PLACES = torch.tensor([3, 4, 8, 15, 40])


@pytest.fixture
def part():
    """Scores of five samples of a larger pool."""
    values = torch.tensor([0.1, 3.0, 0.5, 2.0, 0.0])
    return PoolScores(values, values / 10, {"scheme": "expected"}, PLACES)


@pytest.mark.parametrize("strategy", ["gumbel", "proportional"])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_a_scale_of_all_scores_changes_no_selection(strategy, scale):
    scores = torch.rand(200, dtype=torch.float64) + 0.1
    for seed in range(3):
        chosen = select(scores, 40, strategy=strategy, seed=seed)
        assert select(scale * scores, 40, strategy=strategy, seed=seed).tolist() == chosen.tolist()


@pytest.mark.slow
def test_gumbel_draws_by_standard_deviations():
    """One of three standard deviations more is drawn first e³ times as often."""
    low = torch.zeros(1000)
    low[:500] = 2.0  # a standard deviation of 1
    first = torch.cat([select(low, 1, strategy="gumbel", seed=seed) for seed in range(800)])
    odds = torch.tensor(2.0).exp()
    share, expected = float((first < 500).float().mean()), float(odds / (1 + odds))
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 800) ** 0.5


def test_rows_of_a_subset_have_the_pools_indices(part, tmp_path):
    assert [row["id"] for row in part.to_records()] == PLACES.tolist()
    for writer in WRITERS:
        path = tmp_path / writer.replace("to_", "scores.")
        getattr(part, writer)(path)
        assert [int(row["id"]) for row in read(path)] == PLACES.tolist(), writer
    names = [f"n{i}" for i in range(5)]
    assert [row["id"] for row in part.to_records(ids=names)] == names


@pytest.mark.parametrize("strategy", ["top", "gumbel", "proportional"])
def test_select_of_a_subset_gives_the_pools_indices(part, strategy):
    for seed in (0, 1):
        chosen = part.select(3, strategy=strategy, seed=seed)
        places = select(part.values, 3, strategy=strategy, seed=seed)
        assert chosen.tolist() == PLACES[places].tolist()


def test_the_seed_of_select():
    scores = PoolScores(torch.rand(60))
    for strategy in ("gumbel", "proportional"):
        first, again, other = (
            scores.select(20, strategy=strategy, seed=seed).tolist() for seed in (3, 3, 4)
        )
        assert first == again != other


@pytest.mark.parametrize("bad, more", [(9, False), (10, False), (11, True)])
def test_ten_samples_that_are_not_finite_are_named(bad, more):
    with pytest.warns(UserWarning, match=rf"{bad} of 20 scores are NaN or infinite") as told:
        tell_nonfinite("scores", range(bad), 20, None, "warn")
    names = str(told[0].message).partition("samples ")[2].partition(". Check")[0]
    assert names == ", ".join(map(str, range(min(bad, 10)))) + ", ..." * more


@pytest.mark.parametrize("scheme", ["expected", ["expected", "entropy"]])
def test_a_batch_with_scores_that_are_not_finite(scheme):
    model, x = torch.nn.Linear(4, 3), torch.randn(5, 4)
    x[2] = torch.nan

    def scored(how):
        return GradNormScorer(model, scheme=scheme, on_nonfinite=how).score_batch(x)

    with pytest.raises(NonFiniteScoreError, match=r"1 of 5 scores.*samples 2"):
        scored("raise")
    with pytest.warns(UserWarning, match=r"1 of 5 scores.*samples 2"):
        scored("warn")
    kept = scored("keep")
    for values in [kept] if isinstance(scheme, str) else kept.values():
        assert values.isnan().tolist() == [False, False, True, False, False]


def test_all_of_it_is_saved(part, tmp_path):
    loaded = PoolScores.load(part.save(tmp_path / "scores.npz"))
    assert loaded.indices.tolist() == PLACES.tolist()
    assert torch.equal(loaded.values, part.values)
    assert torch.equal(loaded.standard_error, part.standard_error)
    assert loaded.provenance == part.provenance
    assert loaded.to_records() == part.to_records()
