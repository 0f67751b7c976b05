"""Scores as users handle them in Python."""

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, PoolScores, score_pool, select


@pytest.fixture
def scores():
    return PoolScores(torch.tensor([0.5, 2.0, 1.0]), indices=torch.tensor([4, 0, 7]))


def test_indexing_and_iteration(scores):
    assert scores[1] == 2.0
    assert scores[-1] == 1.0
    assert torch.equal(scores[:2], torch.tensor([0.5, 2.0]))
    assert torch.equal(scores[scores.values > 0.7], torch.tensor([2.0, 1.0]))
    assert list(scores) == [0.5, 2.0, 1.0]
    assert max(scores) == 2.0


def test_select_gives_dataset_indices(scores):
    assert select(scores, 2).tolist() == scores.select(2).tolist() == [0, 7]
    assert select(scores.values, 2).tolist() == [1, 2]
    with pytest.raises(TypeError, match=r"array \[N\], or PoolScores\. Got list"):
        select([1.0], 1)


def test_a_table_of_pandas(scores):
    pandas = pytest.importorskip("pandas")
    table = scores.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert table.loc[0, "score"] == 2.0
    assert table["rank"].tolist() == [3, 1, 2]


def test_in_notebooks(scores):
    assert scores._repr_html_() == f"<pre>{scores}</pre>"
    assert "&lt;" in PoolScores(torch.ones(1), provenance={"scheme": "<b>"})._repr_html_()


def test_tables_are_not_loaded(scores, tmp_path):
    scores.to_csv(tmp_path / "s.csv")
    with pytest.raises(ValueError, match=r"a table for other programs.*Save what .* as \.npz"):
        PoolScores.load(tmp_path / "s.csv")


def test_a_scorer_says_what_it_is():
    model = nn.Linear(3, 2)
    assert repr(GradNormScorer(model)) == "GradNormScorer(Linear)"
    told = repr(GradNormScorer(model, scheme="entropy", rtol=0.1))
    assert told == "GradNormScorer(Linear, scheme='entropy', rtol=0.1)"


@pytest.mark.parametrize(
    "batch, told",
    [
        (torch.ones(2, 3, dtype=torch.uint8), r"gives bytes\. Convert them as in training"),
        (torch.ones(2, 3).double(), "gives torch.float64, the parameters are torch.float32"),
        (torch.ones(2, 3).bfloat16(), "gives torch.bfloat16, the parameters are torch.float32"),
    ],
)
def test_inputs_of_another_dtype(batch, told):
    with pytest.raises(ValueError, match=told):
        score_pool(nn.Linear(3, 2), [batch])
