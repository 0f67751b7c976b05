"""Calls that are wrong, in Python: each is told by its argument, layer or file, with what to do."""

import ast
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import fastgradnorm
from fastgradnorm import GradNormScorer, acquire, score_pool, select
from fastgradnorm.active import ActiveLearner, Campaign

MODEL = nn.Sequential(nn.Linear(4, 3)).eval()
X = torch.ones(6, 4)
QUIET = {"progress": False}


@pytest.mark.parametrize(
    "wrong, told",
    [
        ([X], "model is passed first"),
        (DataLoader(TensorDataset(X)), "model is passed first"),
        (OrderedDict(MODEL.state_dict()), "`load_state_dict`"),
        (nn.Linear, r"`Linear\(...\)`"),
        ("model.pt", "torch.load"),
        (lambda x: x, "`forward=`"),
        (3, r"int\.$"),
    ],
)
def test_what_is_no_model(wrong, told):
    with pytest.raises(TypeError, match=f"`model` must be a torch.nn.Module. Got .*{told}"):
        acquire(wrong, [X], 1)


WRONG = {"weights": MODEL.state_dict(), "none": None, "class": nn.Linear, "path": "model.pt"}


class Unread(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        raise AssertionError("the pool was looked at")


def calls_of_a_model(wrong, pool, folder):
    """All that take a model and a pool, of what is no model."""
    entropy, sketch = {"scheme": "entropy", **QUIET}, {"dim": 4, "scheme": "predicted", **QUIET}
    yield lambda: acquire(wrong, pool, 2, **QUIET)
    yield lambda: score_pool(wrong, pool)
    yield lambda: fastgradnorm.score_and_predict(wrong, pool, **QUIET)
    yield lambda: fastgradnorm.gradient_sketch(wrong, pool, **sketch)
    yield lambda: fastgradnorm.store_sketches(wrong, pool, folder / "sketches", **sketch)
    yield lambda: fastgradnorm.gradient_dots(wrong, pool, [{"weight": X[:3]}], **entropy)
    yield lambda: fastgradnorm.mean_gradient(wrong, pool, **entropy)
    yield lambda: fastgradnorm.explain_gradients(wrong, pool, dim=4, scheme="predicted")
    yield lambda: fastgradnorm.explain_gradients(wrong, pool, directions=1, scheme="entropy")
    if not isinstance(pool, DataLoader):
        yield lambda: Campaign(folder, pool, range(6)).ask(2, wrong, **QUIET)


@pytest.mark.parametrize("pool", [Unread(), DataLoader(Unread(), 3)], ids=["dataset", "loader"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_is_no_model_is_told_before_the_pool_is_looked_at(tmp_path, wrong, pool):
    for call in calls_of_a_model(wrong, pool, tmp_path):
        with pytest.raises(TypeError, match=r"`model` must be a torch\.nn\.Module\. Got"):
            call()


@pytest.mark.parametrize("strategy", ["random", "badge"])
def test_what_a_task_makes_that_is_no_model(strategy):
    class Task:
        name = "weights"

        def pool(self):
            return TensorDataset(X, torch.zeros(6, dtype=torch.int64))

        def make_model(self, seed):
            return MODEL.state_dict()

        def train(self, model, labelled, seed):
            raise AssertionError("it was trained")

        def evaluate(self, model):
            return {}

    learner = ActiveLearner(Task(), strategy, start=2, budget=2, cycles=1, progress=False)
    with pytest.raises(TypeError, match=r"`task\.make_model` must return .*`load_state_dict`"):
        learner.run()


def test_a_model_that_has_lost_its_parameters():
    with pytest.raises(ValueError, match=r"`model` must have parameters.*none at all\..*quantised"):
        score_pool(nn.Sequential(nn.Flatten()), [X])


@pytest.mark.parametrize(
    "wrong, told",
    [
        (MODEL[0], r"Linear.*lambda name, parameter"),
        (["0.weight"], r"Got \['0.weight'\].*name in names"),
        (list(MODEL.parameters()), r"Got list of Parameter\. .*name in names"),
        ("last", r"'last'\.$"),
    ],
)
def test_what_selects_no_parameters(wrong, told):
    with pytest.raises(ValueError, match=f"`params` must be .*{told}"):
        score_pool(MODEL, [X], params=wrong)


def test_a_share_that_was_meant_in_percent():
    with pytest.raises(ValueError, match=r"`rtol` must be .* <= 1\. Got 2"):
        score_pool(MODEL, [X], rtol=2)


def test_batches_without_values():
    for batch in (X.to("meta"), (X.to("meta"), torch.ones(6)), {"input": X.to("meta")}):
        with pytest.raises(ValueError, match="`loader` must be of batches that have values"):
            score_pool(MODEL, [batch])


@pytest.mark.parametrize("pool", [DataLoader(TensorDataset(X)), TensorDataset(X)])
def test_a_pool_in_place_of_a_batch(pool):
    with pytest.raises(TypeError, match=r"`batch` must be one batch.*next\(iter\("):
        GradNormScorer(MODEL).explain(pool)


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, ids):
        return self.head(self.rows(ids).mean(1))


@pytest.mark.parametrize(
    "model, batch, told",
    [
        (MODEL, torch.ones(2, 5), r"`model.0` \(Linear\).*takes \[..., 4\]"),
        (nn.Sequential(nn.Conv1d(3, 2, 1)), torch.ones(2, 1, 8), r"takes \[N, 3, L\]"),
        (nn.Sequential(nn.Conv2d(3, 2, 1)), torch.ones(2, 1, 8, 8), r"takes \[N, 3, H, W\]"),
        (Rows(), torch.tensor([[1, 9]]), r"`model.rows`.*5 rows, for 0 to 4, and a sample has 9"),
        (Rows(), torch.rand(2, 3), "looks up whole numbers"),
    ],
)
def test_samples_that_do_not_fit_a_layer(model, batch, told):
    with pytest.raises(ValueError, match=told):
        score_pool(model, [batch])


class Named(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"image": X[index], "path": f"{index}.png"}


def test_names_that_a_model_does_not_take():
    """They were taken for texts, because one of them is text."""
    with pytest.raises(TypeError, match=r"model\(batch\['image'\]\)") as found:
        acquire(MODEL, Named(), 1)
    assert "token" not in str(found.value)


@pytest.mark.parametrize(
    "labels, told",
    [
        (torch.eye(6, 3).long(), r"class indices \[N\].*one-hot"),
        (["cat"] * 6, "Give each class a number"),
    ],
)
def test_labels_in_other_forms(labels, told):
    with pytest.raises((TypeError, ValueError), match=told):
        score_pool(MODEL, [(X, labels)], loss="cross_entropy")


def test_scores_in_any_form_are_selected_from():
    scores = [0.1, 0.7, float("nan"), 0.5]
    for form in (scores, tuple(scores), np.array(scores), torch.tensor(scores)):
        assert select(form, 2).tolist() == [1, 3]
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"score": scores}, index=["a", "b", "c", "d"])
    assert select(table["score"], 2).tolist() == [1, 3]
    for wrong, told in [
        (table, r"table\['score'\]"),
        ({"expected": torch.tensor(scores)}, r"scores\['expected'\]"),
        (["a", "b"], "Got list of str"),
        ("scores.csv", "Got str"),
    ]:
        with pytest.raises(TypeError, match=f"`scores` must be .*{told}"):
            select(wrong, 1)


def test_places_of_what_was_chosen_and_scored():
    chosen = acquire(MODEL, [torch.randn(9, 4)], 4, **QUIET)
    assert chosen[1:3] == chosen.indices[1:3].tolist()
    for of in (chosen, chosen.scores):
        with pytest.raises(TypeError, match=r"`place` must be .* Got str"):
            of["a.png"]
    pytest.importorskip("pandas")
    named = chosen.scores.to_pandas(ids=[f"{i}.png" for i in range(9)])  # as is advised
    assert named.loc["3.png", "score"] == pytest.approx(chosen.scores[3])


def test_what_was_counted_is_told_without_quotes():
    chosen = acquire(MODEL, [torch.randn(9, 4)], 4, **QUIET)
    for call in (
        lambda: chosen.scores.to_csv("unwritten.csv", ids=["a"]),
        lambda: chosen.to_csv("unwritten.csv", ids=["a"] if 0 not in chosen.indices else []),
        lambda: acquire(MODEL, [X], 1, groups=[1, 2], max_per_group=1),
    ):
        with pytest.raises(ValueError) as found:
            call()
        assert re.search(r"Got \d", str(found.value)), found.value


def test_files_that_cannot_be_written_are_told_by_their_own_name(tmp_path):
    """They were told by that of a neighbour, which is written first."""
    chosen = acquire(MODEL, [torch.randn(9, 4)], 4, **QUIET)
    there = tmp_path / "no" / "folder.csv"
    for write in (chosen.to_csv, chosen.scores.to_csv, chosen.scores.save):
        with pytest.raises(FileNotFoundError) as found:
            write(there)
        assert found.value.filename == str(there)
        with pytest.raises(IsADirectoryError) as found:
            write(tmp_path)
        assert found.value.filename == str(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="`folder` must be a folder"):
        chosen.report(tmp_path / "file")


def _worded(call):
    """The argument that the message of a raised error begins with, if it says what that must be."""
    first = call.args[0] if call.args else None
    text = first.values[0] if isinstance(first, ast.JoinedStr) else first
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        found = re.match(r"`(\w+)` must ", text.value)
        return found and found[1]
    return None


@pytest.mark.slow
def test_errors_about_an_argument_name_it():
    """What a caller, or the command line, goes by is the error's `argument`, never its text."""
    root = Path(fastgradnorm.__file__).parent
    hosts = {"cli", "demo", "page", "integrations"}
    for path in root.rglob("*.py"):
        if hosts & {*path.relative_to(root).parts}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                kind = ast.unparse(node.exc.func)
                named = _worded(node.exc)
                where = f"{path.relative_to(root)}:{node.lineno} `{named}`"
                assert named is None or kind not in ("ValueError", "TypeError"), where
