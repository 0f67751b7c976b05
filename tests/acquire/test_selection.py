"""What is told of a choice, and how it leaves."""

import csv
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import acquire
from fastgradnorm.active import argilla_answers, label_studio_answers
from tests.support.small_task import Blobs

X = Blobs(50).x


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def chosen(model):
    return acquire(model, [X], 6, labelled=[1, 2], progress=False)


def test_records(model, chosen):
    p = model(X).detach().double().softmax(1)
    assert [row["index"] for row in chosen.records] == chosen.indices.tolist()
    assert [row["rank"] for row in chosen.records] == [1, 2, 3, 4, 5, 6]
    for row in chosen.records:
        i = row["index"]
        first, second = p[i].topk(2).indices.tolist()
        assert (row["predicted"], row["runner_up"]) == (first, second)
        assert row["confidence"] == pytest.approx(float(p[i, first]), 1e-5)
        assert row["runner_up_probability"] == pytest.approx(float(p[i, second]), 1e-5)
        assert row["score"] == float(chosen.scores.values[i])
    covers = [row["coverage"] for row in chosen.records]
    assert min(covers) > 0
    cover = chosen.pool["coverage"]
    assert cover["after"] == pytest.approx(cover["before"] + sum(covers))
    features = F.normalize(model[:3](X).detach().double(), dim=1)
    width = torch.pdist(features[[i for i in range(50) if i not in (1, 2)]]).quantile(0.1)
    rest = features[[i for i in range(50) if i not in (1, 2)]]
    similar = torch.exp(-torch.cdist(rest, features[[1, 2]]).square() / (2 * width**2))
    assert cover["before"] == pytest.approx(float(similar.amax(1).mean()), 1e-4)


def test_the_pool(model, chosen):
    p = model(X).detach().softmax(1)
    counts = torch.bincount(p.argmax(1), minlength=3).tolist()
    assert chosen.pool["classes"] == {c: n for c, n in enumerate(counts) if n}
    assert chosen.pool["confidence"]["mean"] == pytest.approx(float(p.amax(1).mean()), 1e-5)
    assert (chosen.pool["samples"], chosen.pool["labelled"]) == (50, 2)
    assert chosen.pool["candidates"] == 48
    assert chosen.scores.verified
    text = repr(chosen)
    assert "6 of 48 samples by 'auto'" in text
    assert "mean confidence" in text


def test_what_was_noticed_is_told(model):
    saturated = nn.Sequential(model, nn.Softmax(1)).eval()
    with pytest.warns(UserWarning, match="probabilities"):
        made = acquire(saturated, [X], 3, strategy="margin", params="all", progress=False)
    assert any("probabilities" in each["kind"] for each in made.pool["findings"])
    assert "in doubt" in repr(made)


def test_no_coverage_where_there_are_no_features(model):
    made = acquire(model, [X], 3, strategy="margin", progress=False)
    assert made.records[0]["coverage"] is None
    assert made.pool["coverage"] is None


def test_files(chosen, tmp_path):
    names = [f"photo {i}.png" for i in range(50)]
    path = chosen.to_csv(tmp_path / "a.csv", ids=names)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["id"] for row in rows] == [names[i] for i in chosen]
    assert float(rows[0]["score"]) == chosen.records[0]["score"]
    lines = chosen.to_jsonl(tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == chosen.indices.tolist()
    tasks = json.loads(
        chosen.to_label_studio(
            tmp_path / "t.json", [f"/data/{n}" for n in names], ids=names, names=["a", "b", "c"]
        ).read_text()
    )
    assert [task["data"]["key"] for task in tasks] == [names[i] for i in chosen]
    first = tasks[0]["data"]
    assert first["image"] == f"/data/{first['key']}"
    assert first["rank"] == 1
    assert first["predicted"] == "abc"[chosen.records[0]["predicted"]]
    fields = chosen.to_fiftyone({i: f"id{i}" for i in range(50)})
    assert fields[f"id{chosen.indices[2]}"]["rank"] == 3


def test_a_page(chosen, tmp_path):
    image = pytest.importorskip("PIL.Image")
    page = chosen.report(tmp_path / "new" / "r", ids=[f"<{i}>" for i in range(50)])
    text = page.read_text()
    assert page.name == "index.html"
    assert f"&lt;{chosen.indices[0]}&gt;" in text
    assert "adds " in text
    pictures = chosen.report(tmp_path / "p", picture=lambda i: image.new("L", (300, 6), i))
    assert pictures.read_text().count("<img") == 6
    assert list(tmp_path.rglob("*.html")) and not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda s, p: s.to_csv(p, ids=["a"]), "`ids` must be one for each sample"),
        (lambda s, p: s.to_csv(p, ids={0: 1}), "`ids` must be a mapping of every chosen index"),
        (lambda s, p: s.to_csv(p, ids="abc"), "`ids` must be a sequence"),
        (
            lambda s, p: s.to_csv(p, columns={"score": X}),
            "`columns` must be of names that no record",
        ),
        (
            lambda s, p: s.to_csv(p, columns={"text": ["a"]}),
            "`columns` must be one for each sample",
        ),
        (lambda s, p: s.to_label_studio(p, ["a"]), "`data` must be one for each"),
        (lambda s, p: s.to_label_studio(p, range(50), names=[]), "`names` must be one for each"),
        *(
            (
                lambda s, p, f=field: s.to_label_studio(p, range(50), field=f),
                "`field` must be another",
            )
            for field in ("key", "score", "rank", "predicted", "confidence")
        ),
    ],
)
def test_errors(chosen, tmp_path, call, match):
    with pytest.raises((ValueError, TypeError), match=match):
        call(chosen, tmp_path / "x")
    assert not list(tmp_path.iterdir())


OTHERS = Blobs(54).x[50:]
LABELLED = {"none": (None, "0"), "indices": ([1, 2], "2"), "a loader": ([OTHERS], "4")}


@pytest.mark.parametrize("strategy", ["auto", "margin", "top", "random", "badge"])
@pytest.mark.parametrize("kind", LABELLED)
def test_a_page_whatever_is_known_of_what_is_labelled(model, tmp_path, strategy, kind):
    """How many a loader has is unknown where nobody had to read it."""
    labelled, count = LABELLED[kind]
    made = acquire(model, [X], 3, labelled=labelled, strategy=strategy, progress=False)
    text = made.report(tmp_path).read_text()
    unread = kind == "a loader" and strategy not in ("auto", "badge")
    assert made.pool["labelled"] == (None if unread else int(count))
    assert ("labelled already." in text) != unread


@pytest.mark.slow
def test_groups_and_near_duplicates(model):
    groups = [f"patient {i // 5}" for i in range(50)]
    made = acquire(model, [X], 10, groups=groups, max_per_group=1, progress=False)
    assert len({groups[i] for i in made}) == 10
    alone = [None if i < 25 else "one" for i in range(50)]
    made = acquire(model, [X], 10, groups=alone, max_per_group=1, progress=False)
    assert sum(i >= 25 for i in made) <= 1
    twice = torch.cat([X[:10], X[:10]])
    made = acquire(model, [twice], 9, labelled=[0], max_similarity=0.9999, progress=False)
    assert len({i % 10 for i in made}) == 9
    assert not {i % 10 for i in made} & {0}
    asked = {"labelled": [0], "max_similarity": 0.9999, "strategy": "random", "progress": False}
    with pytest.raises(ValueError, match=r"`k` must be at most 9, .*Raise `max_similarity`"):
        acquire(model, [twice], 10, **asked)
    plain = acquire(model, [twice], 19, labelled=[0], progress=False)
    assert len({i % 10 for i in plain}) == 10


@pytest.mark.slow
def test_the_seed(model):
    first, same, other = (
        acquire(model, [X], 8, strategy="random", seed=seed, progress=False) for seed in (3, 3, 4)
    )
    assert torch.equal(first.indices, same.indices)
    assert first.indices.tolist() != other.indices.tolist()


def test_texts_and_further_columns(chosen, tmp_path):
    texts = [f"<b>text {i}</b> " + "word " * 100 for i in range(50)]
    columns = {"text": texts, "url": {i: f"u{i}" for i in chosen}}
    with chosen.to_csv(tmp_path / "a.csv", columns=columns).open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["text"], row["url"]) for row in rows] == [(texts[i], f"u{i}") for i in chosen]
    lines = chosen.to_jsonl(tmp_path / "a.jsonl", columns=columns).read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [texts[i] for i in chosen]
    page = chosen.report(tmp_path, text=texts).read_text()
    for i in chosen:
        assert f"&lt;b&gt;text {i}&lt;/b&gt; word" in page
    assert "word " * 100 not in page


def test_records_for_argilla(chosen, tmp_path):
    path = chosen.to_argilla(tmp_path / "a.json", [f"text {i}" for i in range(50)], names="abc")
    records = json.loads(path.read_text())
    assert [record["id"] for record in records] == [str(i) for i in chosen]
    first, row = records[0], chosen.records[0]
    assert first["fields"] == {"text": f"text {row['index']}"}
    assert first["metadata"] == {name: row[name] for name in ("score", "rank", "confidence")}
    suggestion = first["suggestions"]["label"]
    assert (suggestion["value"], suggestion["score"]) == (
        "abc"[row["predicted"]],
        row["confidence"],
    )
    assert not json.loads(chosen.to_argilla(path, range(50)).read_text())[0]["suggestions"]


def test_fields_and_questions_of_other_names(chosen, tmp_path):
    """As a project has them that is there already; the key comes back by the name it went by."""
    texts = [f"text {i}" for i in range(50)]
    path = chosen.to_label_studio(tmp_path / "t.json", texts, field="review")
    tasks = json.loads(path.read_text())
    assert [task["data"]["review"] for task in tasks] == [texts[i] for i in chosen]
    done = {"annotations": [{"result": [{"value": {"choices": ["cat"]}}]}]}
    answered = [{"data": {"nr": task["data"]["key"]}, **done} for task in tasks]
    found = label_studio_answers(answered, key="nr")
    assert found == dict.fromkeys(map(str, chosen), "cat")
    records = json.loads(
        chosen.to_argilla(
            tmp_path / "a.json", texts, field="review", question="kind", names="abc"
        ).read_text()
    )
    assert records[0]["fields"] == {"review": texts[chosen[0]]}
    assert [*records[0]["suggestions"]] == ["kind"]
    for record in records:
        record["responses"] = {"kind": [{"value": "dog", "status": "submitted"}]}
    assert argilla_answers(records, question="kind") == dict.fromkeys(map(str, chosen), "dog")


def test_facts(chosen):
    told = json.loads(chosen.facts())
    assert told["provenance"]["strategy"] == chosen.provenance["strategy"]
    assert told["pool"]["samples"] == 50
