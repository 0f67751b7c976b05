"""Records and files for other programs, read back by the programs' own readers."""

import csv
import json

import numpy as np
import pytest
import torch

from fastgradnorm import PoolScores

NAN, INF = float("nan"), float("inf")
WRITERS = ("to_csv", "to_jsonl", "to_parquet")


@pytest.fixture
def scores():
    return PoolScores(torch.tensor([0.1, 3.0, NAN, 3.0, 0.0]), None, {"scheme": "expected"})


def read(path):
    """The rows of a file, with numbers where there are some."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kinds = {"id": str, "rank": int}
    return [
        {name: kinds.get(name, float)(cell) if cell else None for name, cell in row.items()}
        for row in rows
    ]


class TestRecords:
    def test_rank_percentile_and_inverted_score(self, scores):
        names = ("rank", "percentile", "inverted_score")
        found = [tuple(row[name] for name in names) for row in scores.to_records()]
        third = pytest.approx(1 / 3)
        assert found[1] == (1, 1.0, 0.0)
        assert found[3] == (2, pytest.approx(2 / 3), third)  # a tie: pool order
        assert found[0] == (3, third, pytest.approx(2 / 3))
        assert found[4] == (4, 0.0, 1.0)
        assert found[2] == (None, None, None)

    def test_ranks_are_the_order_of_select(self):
        values = torch.randint(0, 20, (50,)).float()
        rows = PoolScores(values).to_records()
        by_rank = sorted(rows, key=lambda row: row["rank"])
        assert [row["id"] for row in by_rank] == PoolScores(values).select(50).tolist()

    def test_low_first_is_labelled_in_the_same_order(self, scores):
        high = [row for row in scores.to_records() if row["rank"]]
        low = [row for row in scores.to_records(low_first=True) if row["rank"]]
        assert [row["id"] for row in sorted(high, key=lambda row: (-row["score"], row["id"]))] == [
            row["id"] for row in sorted(low, key=lambda row: row["score"])
        ]
        assert [row["gradient_norm"] for row in low] == [row["score"] for row in high]
        assert all(0 <= row["score"] <= 1 for row in low)

    def test_nan_is_none_whichever_end_comes_first(self, scores):
        for low_first in (False, True):
            row = scores.to_records(low_first=low_first)[2]
            assert row.pop("id") == 2
            assert set(row.values()) == {None}

    def test_scores_have_the_digits_of_their_dtype(self, scores):
        assert scores.to_records()[0]["score"] == 0.1
        double = PoolScores(torch.tensor([1 / 3], dtype=torch.float64))
        assert double.to_records()[0]["score"] == 1 / 3

    def test_one_score_no_score_and_none_but_nan(self):
        (row,) = PoolScores(torch.ones(1)).to_records()
        assert (row["rank"], row["percentile"], row["inverted_score"]) == (1, 1.0, 0.0)
        assert PoolScores(torch.empty(0)).to_records() == []
        assert PoolScores(torch.tensor([NAN])).to_records()[0]["rank"] is None

    def test_standard_error_where_there_is_one(self):
        scores = PoolScores(torch.ones(2), torch.tensor([0.25, NAN]))
        assert [row["standard_error"] for row in scores.to_records()] == [0.25, None]

    @pytest.mark.parametrize("ids", [["x", "y"], ("x", "y"), torch.tensor([7, 5])])
    def test_ids_of_the_caller(self, ids):
        found = [row["id"] for row in PoolScores(torch.ones(2)).to_records(ids)]
        assert found == (ids.tolist() if isinstance(ids, torch.Tensor) else list(ids))

    def test_wrong_ids_and_flag(self, scores):
        with pytest.raises(ValueError, match=r"`ids` must be one for each of 5 scores. Got 2 ids"):
            scores.to_records(ids=["a", "b"])
        with pytest.raises(TypeError, match=r"`ids` must be a sequence with one id a score"):
            scores.to_records(ids="abcde")
        with pytest.raises(TypeError, match=r"`low_first` must be True or False"):
            scores.to_records(low_first=1)


class TestIndices:
    """Scores of some samples of a dataset, or in another order than its."""

    ORDERS = ([3, 0, 2], [4], [1, 1, 4, 0], [0, 2, 4], [5, 3])

    @pytest.mark.parametrize("indices", ORDERS)
    @pytest.mark.parametrize("make", [list, lambda ids: dict(enumerate(ids)), np.array])
    def test_ids_of_a_whole_dataset_go_to_their_samples(self, indices, make):
        scores = PoolScores(torch.rand(len(indices)), indices=torch.tensor(indices))
        rows = scores.to_records(make([*"abcdef"]))
        assert [row["id"] for row in rows] == ["abcdef"[i] for i in indices]

    @pytest.mark.parametrize("indices", ORDERS)
    def test_ids_are_the_indices_by_default_or_one_a_score(self, indices):
        scores = PoolScores(torch.rand(len(indices)), indices=torch.tensor(indices))
        assert [row["id"] for row in scores.to_records()] == indices
        ids = [f"{i}.png" for i in indices]
        assert [row["id"] for row in scores.to_records(ids)] == ids

    @pytest.mark.parametrize("indices", [[1, 0], [2, 0, 1], [0, 2, 1, 3]])
    def test_as_many_ids_as_scores_of_another_order_are_ambiguous(self, indices):
        scores = PoolScores(torch.rand(len(indices)), indices=torch.tensor(indices))
        with pytest.raises(ValueError, match=r"`ids` must be a mapping.*dict\(enumerate\(ids\)\)"):
            scores.to_records([*"abcd"[: len(indices)]])

    def test_ids_that_do_not_reach_so_far(self):
        scores = PoolScores(torch.rand(2), indices=torch.tensor([1, 4]))
        with pytest.raises(ValueError, match=r"`ids` must be one for each of 2 scores"):
            scores.to_records([*"abcd"])
        with pytest.raises(ValueError, match=r"`ids` must be a mapping of every index.*none for 4"):
            scores.to_records({1: "b"})

    @pytest.mark.parametrize("writer", WRITERS)
    def test_files(self, writer, tmp_path):
        scores = PoolScores(torch.rand(2), indices=torch.tensor([1, 4]))
        path = getattr(scores, writer)(tmp_path / f"s.{writer.removeprefix('to_')}", [*"abcdef"])
        assert [row["id"] for row in read(path)] == ["b", "e"]


class TestColumns:
    """What else the caller wants in each row."""

    @pytest.mark.parametrize("make", [list, np.array, lambda v: dict(enumerate(v))])
    def test_behind_all_others(self, scores, make):
        rows = scores.to_records([*"abcde"], columns={"text": make([*"vwxyz"]), "n": range(5)})
        assert [list(row)[-2:] for row in rows] == [["text", "n"]] * 5
        assert [(row["text"], row["n"]) for row in rows] == [*zip("vwxyz", range(5), strict=True)]
        assert scores.to_pandas(columns={"n": range(5)})["n"].tolist() == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("indices", TestIndices.ORDERS)
    def test_those_of_a_whole_dataset_go_to_their_samples(self, indices):
        scores = PoolScores(torch.rand(len(indices)), indices=torch.tensor(indices))
        rows = scores.to_records(columns={"text": [*"abcdef"]})
        assert [row["text"] for row in rows] == ["abcdef"[i] for i in indices]
        assert [row["id"] for row in rows] == indices

    def test_as_many_as_scores_of_another_order_are_ambiguous(self):
        scores = PoolScores(torch.rand(3), indices=torch.tensor([2, 0, 1]))
        with pytest.raises(ValueError, match=r"`columns` must be a mapping.*enumerate\(values\)"):
            scores.to_records(columns={"text": [*"abc"]})

    def test_wrong_ones(self, scores):
        with pytest.raises(
            ValueError, match=r"`columns` must be of names that no record has.*rank"
        ):
            scores.to_records(columns={"rank": range(5)})
        with pytest.raises(ValueError, match=r"`columns` must be one for each of 5 scores"):
            scores.to_records(columns={"text": range(4)})
        with pytest.raises(TypeError, match=r"`columns` must be a sequence with one value a score"):
            scores.to_records(columns={"text": "abcde"})

    @pytest.mark.parametrize("writer", WRITERS)
    def test_files(self, scores, writer, tmp_path):
        path = tmp_path / f"s.{writer.removeprefix('to_')}"
        getattr(scores, writer)(path, columns={"much": [0.5, 1.5, 2.5, 3.5, 4.5]})
        assert [row["much"] for row in read(path)] == [0.5, 1.5, 2.5, 3.5, 4.5]


class TestFiles:
    @pytest.mark.parametrize("writer", WRITERS)
    @pytest.mark.parametrize("low_first", [False, True])
    def test_rows_are_the_records(self, scores, writer, low_first, tmp_path):
        ids = ["a", 'quo"ted, ', "ü\n2", "=1+1", "e"]
        path = getattr(scores, writer)(
            str(tmp_path / f"scores.{writer.removeprefix('to_')}"), ids=ids, low_first=low_first
        )
        assert read(path) == scores.to_records(ids, low_first)

    def test_infinite_scores(self, tmp_path):
        scores = PoolScores(torch.tensor([1.0, INF]))
        first = [
            read(getattr(scores, writer)(tmp_path / f"s.{writer.removeprefix('to_')}"))[1]
            for writer in WRITERS
        ]
        assert [row["score"] for row in first] == [INF, None, INF]
        assert [row["rank"] for row in first] == [1, 1, 1]

    def test_parquet_keeps_the_provenance(self, scores, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet")
        scores.to_parquet(tmp_path / "scores.parquet")
        metadata = parquet.read_schema(tmp_path / "scores.parquet").metadata
        assert json.loads(metadata[b"fastgradnorm"]) == {"scheme": "expected"}

    @pytest.mark.parametrize("writer", WRITERS)
    def test_a_failed_write_leaves_the_old_file_alone(self, scores, writer, tmp_path):
        path = tmp_path / "scores"
        path.write_text("old")
        with pytest.raises(Exception, match=r"."):  # no writer can hold such an id
            getattr(scores, writer)(path, ids=[*"abcd", Unwritable()])
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_parquet_without_pyarrow_names_the_extra(self, scores, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install fastgradnorm\[parquet\]"):
            scores.to_parquet(tmp_path / "scores.parquet")
        assert list(tmp_path.iterdir()) == []


class Unwritable:
    def __str__(self):
        raise RuntimeError("no text")
