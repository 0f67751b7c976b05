"""Scores as users handle them in Python."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, PoolScores, acquire, score_pool, select


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
        select(["a"], 1)


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
        (torch.ones(2, 3, dtype=torch.uint8), r"was given bytes\. Convert them as in training"),
        (torch.ones(2, 3).double(), "given torch.float64, its parameters are torch.float32"),
        (torch.ones(2, 3).bfloat16(), "given torch.bfloat16, its parameters are torch.float32"),
    ],
)
def test_inputs_of_another_dtype(batch, told):
    with pytest.raises(ValueError, match=told):
        score_pool(nn.Linear(3, 2), [batch])


def chosen(count=12):
    torch.manual_seed(0)
    return acquire(nn.Linear(4, 3), [torch.randn(count, 4)], 3, progress=False)


def test_ids_of_pandas_are_taken_by_place_not_by_label(tmp_path):
    pandas = pytest.importorskip("pandas")
    made, names = chosen(), [f"s{i}" for i in range(12)]
    right = [names[i] for i in made]
    for index in (range(11, -1, -1), range(100, 112), [f"x{i}" for i in range(12)]):
        column = pandas.Series(names, index=index)  # as of a table that was filtered or shuffled
        assert [row["id"] for row in made.to_records(column)] == right
        assert [row["text"] for row in made.to_records(columns={"text": column})] == right
        made.to_label_studio(tmp_path / "t.json", column, ids=column)
        tasks = json.loads((tmp_path / "t.json").read_text())
        assert [task["data"]["image"] for task in tasks] == right
        page = made.report(tmp_path / "page", ids=column, text=column)
        assert all(name in page.read_text() for name in right)


def test_paths_are_taken_for_what_they_name(tmp_path):
    made, names = chosen(), [Path(f"photos/{i}.png") for i in range(12)]
    told = [str(names[i]) for i in made]
    made.to_label_studio(tmp_path / "t.json", names, ids=dict(enumerate(names)))
    tasks = json.loads((tmp_path / "t.json").read_text())
    assert [task["data"]["key"] for task in tasks] == told
    made.to_argilla(tmp_path / "a.json", names, ids=names)
    made.to_jsonl(tmp_path / "j.jsonl", ids=names)
    assert [json.loads(x)["id"] for x in (tmp_path / "j.jsonl").read_text().splitlines()] == told
    made.scores.to_jsonl(tmp_path / "s.jsonl", ids=names)


def test_what_json_cannot_hold_is_told(tmp_path):
    with pytest.raises(TypeError, match=r"Got bytes\. Pass it as text"):
        chosen().to_jsonl(tmp_path / "j.jsonl", ids=[b"x"] * 12)


def test_half_a_character_of_a_text_is_written_as_its_escape(tmp_path):
    texts = ["\ud83d cut"] * 12
    made = chosen()
    for write in (made.to_csv, made.to_jsonl):
        assert "\\ud83d cut" in write(tmp_path / "out", columns={"text": texts}).read_text()
    assert "\\ud83d cut" in made.report(tmp_path / "page", text=texts).read_text()


def test_pictures_as_a_list(tmp_path):
    image = pytest.importorskip("PIL.Image")
    page = chosen().report(tmp_path, picture=[image.new("L", (4, 4))] * 12, link=["a.png"] * 12)
    assert page.read_text().count('href="a.png"') == 3


def test_a_page_says_what_its_numbers_are_and_no_more_than_there_is(tmp_path):
    page = chosen().report(tmp_path).read_text()
    assert "the two classes that the model finds most probable; <i>adds</i>" in page
    assert " to score, " in page
    assert "None" not in page
    torch.manual_seed(0)
    made = acquire(nn.Linear(4, 3), [torch.randn(6, 4)], 2, strategy="margin", progress=False)
    assert "<i>adds</i>" not in made.report(tmp_path).read_text()


def test_nothing_is_predicted_of_outputs_that_are_nan():
    pool = torch.randn(6, 4)
    pool[2] = float("nan")
    made = acquire(nn.Linear(4, 3), [pool], 2, progress=False, on_nonfinite="keep")
    assert sum(made.pool["classes"].values()) == 5
