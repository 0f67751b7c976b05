"""A campaign with keys of any kind, labels that are nearly alike, other models and groups."""

import json
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from fastgradnorm import ArgumentError
from fastgradnorm.active import Campaign, label_studio_answers
from fastgradnorm.active.campaign._status import _compared
from tests.support.campaigns import KEYS, N, X, ask, campaign


class TestKeys:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "names",
        [
            [f"Füße/日本 {i}\u2028\u0000\n🦊.png" for i in range(N)],
            [f"photo\udce9 {i}.png" for i in range(N)],  # a name of a file that is no UTF-8
            [f'"{i}"\\' for i in range(N)],
            [chr(0x65) + chr(0x301) * i for i in range(N)],
        ],
        ids=["unicode", "no text", "quotes", "accents"],
    )
    def test_of_any_letters(self, tmp_path, names):
        made = campaign(tmp_path, names)
        batch = ask(made)
        assert {*batch.keys} <= {*names}
        made.tell(batch, {key: key for key in batch.keys})
        again = campaign(tmp_path, names)
        assert again.labelled == {key: key for key in batch.keys}
        assert not {*ask(again).keys} & {*batch.keys}

    @pytest.mark.parametrize(
        "keys",
        [
            np.arange(N) * 3,
            torch.arange(N) * 3,
            [np.int64(i) * 3 for i in range(N)],
            list(torch.arange(N) * 3),
            lambda i: torch.tensor(3 * i),
            {i: 3 * i for i in range(N)},
            range(0, 3 * N, 3),
        ],
        ids=["array", "tensor", "numbers", "tensors", "function", "mapping", "range"],
    )
    def test_of_any_type_are_text(self, tmp_path, keys):
        made = campaign(tmp_path, keys)
        assert made.keys == tuple(str(3 * i) for i in range(N))
        batch = ask(made)
        assert made.tell(batch, {int(batch.keys[0]): 1, np.str_(batch.keys[1]): 2}) == 2
        assert made.tell(batch, {torch.tensor(int(batch.keys[2])): 3}) == 1
        assert made.labelled == dict(zip(batch.keys, (1, 2, 3), strict=False))

    def test_two_that_are_one_as_text_are_refused(self, tmp_path):
        made = campaign(tmp_path, range(N))
        batch = ask(made)
        key = batch.keys[0]
        with pytest.raises(ValueError, match=f"`answers` must have one label a key.*'{key}'"):
            made.tell(batch, {key: "cat", int(key): "dog"})
        assert made.labelled == {}


class TestLabels:
    def test_true_corrects_one(self, tmp_path):
        made = campaign(tmp_path)
        batch = ask(made)
        for label in (1, True, 1.0, "1", None, 0, False, [1], [True], {"a": 1, "b": 2}):
            assert made.tell(batch, {batch.keys[0]: label}) == 1
            assert made.tell(batch, {batch.keys[0]: label}) == 0
            known = campaign(tmp_path).labelled.get(batch.keys[0])
            assert json.dumps(known) == json.dumps(label)
        assert made.tell(batch, {batch.keys[0]: {"b": 2, "a": 1}}) == 0

    @pytest.mark.slow
    def test_corrections_after_later_rounds(self, tmp_path):
        made = campaign(tmp_path)
        batches = []
        for _ in range(4):
            batches.append(ask(made))
            made.tell(batches[-1], dict.fromkeys(batches[-1].keys, "first"))
        first = batches[0].keys[0]
        made.tell(batches[0], {first: "corrected"})
        made.tell(batches[1], {batches[1].keys[0]: None})  # not to be labelled after all
        assert made.labelled[first] == "corrected"
        assert batches[1].keys[0] not in made.labelled
        last = ask(made, 10)
        assert not {*last.keys} & {key for batch in batches for key in batch.keys}
        with pytest.raises(ValueError, match="which is not in it"):
            made.tell(last, {first: "again"})

    @pytest.mark.slow
    def test_thousands(self, tmp_path):
        x = torch.randn(4000, 6, generator=torch.Generator().manual_seed(1))
        made = Campaign(tmp_path, TensorDataset(x), range(4000))
        start = time.process_time()
        for _ in range(2):
            batch = ask(made, 1500, strategy="margin")
            answers = {key: int(key) % 7 for key in batch.keys}
            assert made.tell(batch, answers) == 1500
            assert made.tell(batch, answers) == 0
            for key in batch.keys[:100]:
                assert made.tell(batch, {key: "one by one"}) == 1
        assert made.progress == (3000, 4000)
        assert time.process_time() - start < 60
        assert sum(label == "one by one" for label in campaign_labels(tmp_path)) == 200


def campaign_labels(folder):
    return Campaign(folder).labelled.values()


class TestModels:
    @pytest.mark.slow
    def test_another_one_each_round(self, tmp_path):
        made, seen = campaign(tmp_path), []
        torch.manual_seed(0)
        models = [
            nn.Linear(6, 3),
            nn.Linear(6, 9),  # more classes
            nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)),  # other features
            nn.Linear(6, 1),
        ]
        for model in models:
            batch = made.ask(5, model.eval(), progress=False)
            seen += batch.keys
            made.tell(batch, dict.fromkeys(batch.keys, 0))
        assert len({*seen}) == 20
        told = made.status()
        assert len(told.changed) == 3
        with torch.no_grad():
            a, b = models[0](X).argmax(1), models[1](X).argmax(1)
        assert told.changed[0] == pytest.approx(float((a != b).double().mean()))

    def test_agreement_is_cohens_kappa(self):
        metrics = pytest.importorskip("sklearn.metrics")
        draw = np.random.default_rng(0)
        first = draw.integers(0, 5, 300)
        second = np.where(draw.random(300) < 0.7, first, draw.integers(3, 9, 300))
        keyed = [{str(i): int(c) for i, c in enumerate(each)} for each in (first, second)]
        share, kappa, count = _compared(*keyed)
        assert (share, count) == (pytest.approx((first != second).mean()), 300)
        assert kappa == pytest.approx(metrics.cohen_kappa_score(first, second))

    def test_nothing_left_is_told(self, tmp_path):
        made = campaign(tmp_path)
        batch = ask(made, N)
        made.tell(batch, dict.fromkeys(batch.keys[1:], 1))
        assert "Tell the answers" in made.status().hint
        made.tell(batch, {batch.keys[0]: None})
        assert made.status().hint == "Every sample of the pool is answered."


@pytest.mark.parametrize(
    "groups, match",
    [
        (["a"] * 29, "30 samples of the pool. Got 29 in all"),
        (["a"] * 31, "30 samples of the pool. Got 31 in all"),
        (dict.fromkeys(range(29), "a"), "Got none for 29"),
        (7, "Got int"),
    ],
)
def test_groups_that_do_not_fit(tmp_path, groups, match):
    with pytest.raises(ValueError, match=f"`groups` must be the group of each.*{match}"):
        ask(campaign(tmp_path), groups=groups, max_per_group=2)


def test_groups_of_a_column_with_an_index_of_its_own(tmp_path):
    pandas = pytest.importorskip("pandas")
    names = ["a", "b", "c"] * 10
    made = campaign(tmp_path)
    column = pandas.Series(names, index=range(29, -1, -1))
    batch = ask(made, 6, groups=column, max_per_group=2)
    assert sorted(names[i] for i in batch.indices) == ["a", "a", "b", "b", "c", "c"]


def test_the_latest_annotation_of_label_studio():
    """Whole seconds have no fraction there, and a point sorts before a Z."""

    def task(*times):
        told = [{"result": [{"value": {"choices": [t]}}], "updated_at": t} for t in times]
        return {"data": {"key": "a"}, "annotations": told}

    for first, last in [
        ("2026-11-26T10:00:00Z", "2026-11-26T10:00:00.250000Z"),
        ("2026-11-26T09:59:59.900000Z", "2026-11-26T10:00:00Z"),
        ("2026-11-26T11:30:00+02:00", "2026-11-26T10:00:00Z"),
        ("2026-11-26T10:00:00", "2026-11-26T10:00:01Z"),
        ("", "2026-11-26T10:00:00Z"),
    ]:
        assert label_studio_answers([task(first, last)]) == {"a": last}
        assert label_studio_answers([task(last, first)]) == {"a": last}


def test_a_mapping_has_the_key_of_each_index(tmp_path):
    pool = TensorDataset(X)
    by_index = dict(enumerate(KEYS))
    assert list(Campaign(tmp_path, pool, by_index).keys) == [*KEYS]
    with pytest.raises(ArgumentError, match=r"none for sample 0. Of a mapping from keys"):
        Campaign(tmp_path, pool, {key: i for i, key in enumerate(KEYS)})
