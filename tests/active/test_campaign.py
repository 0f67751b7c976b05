"""A campaign: what people answer, in whatever order, is kept, whatever happens to processes."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import TensorDataset

import fastgradnorm
from fastgradnorm.active import Campaign, argilla_answers, label_studio_answers
from tests.support.campaigns import KEYS, N, X, ask, campaign, lines, network


class TestRounds:
    def test_the_first_is_what_acquire_chooses(self, tmp_path):
        batch = ask(campaign(tmp_path))
        made = fastgradnorm.acquire(network(), TensorDataset(X), 5, progress=False)
        assert list(batch.indices) == made.indices.tolist()
        assert batch.keys == tuple(KEYS[i] for i in made)
        assert [row["index"] for row in batch.records] == list(batch.indices)
        assert batch.id == 1

    def test_the_open_batch_is_asked_again_until_it_is_told(self, tmp_path):
        first = ask(campaign(tmp_path))
        for _ in range(2):  # another process, another model, another k
            with pytest.warns(UserWarning, match="Batch 1 is open"):
                again = ask(campaign(tmp_path), 9, seed=4, strategy="random")
            assert (again.id, again.keys, again.waiting) == (1, first.keys, first.keys)
        made = campaign(tmp_path)
        made.tell(first, dict.fromkeys(first.keys[:3], "cat"))
        assert ask(made).waiting == first.keys[3:]
        made.tell(first, dict.fromkeys(first.keys[3:], "dog"))
        second = ask(made)
        assert second.id == 2
        assert not {*second.keys} & {*first.keys}

    @pytest.mark.slow
    def test_it_starts_from_what_is_labelled(self, tmp_path):
        made = campaign(tmp_path)
        first = ask(made)
        made.tell(first, dict.fromkeys(first.keys, 0))
        second = ask(made, 4)
        wanted = fastgradnorm.acquire(
            network(), TensorDataset(X), 4, labelled=first.indices, seed=1, progress=False
        )
        assert list(second.indices) == wanted.indices.tolist()

    @pytest.mark.slow
    def test_everything_is_asked_once(self, tmp_path):
        made, seen = campaign(tmp_path), []
        for _ in range(6):
            batch = ask(made)
            seen += batch.keys
            made.tell(batch.id, {key: i for i, key in enumerate(batch.keys)})
        assert sorted(seen) == sorted(KEYS)
        assert made.progress == (30, 30)
        assert made.unlabelled == []
        with pytest.raises(ValueError, match="`k` must be at most 0"):
            ask(made)


class TestAnswers:
    @pytest.mark.slow
    def test_partial_late_duplicate_corrected_and_skipped(self, tmp_path):
        made = campaign(tmp_path)
        batch = ask(made)
        a, b, c, d, e = batch.keys
        assert made.tell(batch, {a: "cat", b: None}) == 2  # partial, one skipped
        assert made.tell(batch, {a: "cat", b: None}) == 0  # again
        size = len(lines(tmp_path))
        assert made.tell(batch.id, {a: "cat"}) == 0
        assert len(lines(tmp_path)) == size
        assert made.tell(batch, {a: "dog", c: "cat"}) == 2  # corrected
        assert made.labelled == {a: "dog", c: "cat"}
        assert made.release(batch) == 2
        second = ask(made, 25)
        assert {d, e} <= {*second.keys}  # may be asked again, the others not
        assert not {a, b, c} & {*second.keys}
        assert made.tell(batch, {d: "late"}) == 1  # of a batch that was released
        assert d not in ask(made, 25).waiting
        assert made.tell(second, {e: "bird"}) == 1
        assert campaign(tmp_path).labelled == {a: "dog", c: "cat", d: "late", e: "bird"}
        assert made.tell(batch, {b: "after all"}) == 1
        assert made.labelled[b] == "after all"

    @pytest.mark.slow
    def test_what_was_skipped_is_never_asked_again(self, tmp_path):
        made, seen = campaign(tmp_path), []
        for _ in range(5):
            batch = ask(made, 6)
            seen += batch.keys
            made.tell(batch, dict.fromkeys(batch.keys))
        assert len({*seen}) == N
        assert made.labelled == {}
        assert made.status().skipped == N

    @pytest.mark.parametrize(
        "label", [3, 0.5, "é", True, [1, [2]], {"boxes": [[0, 1, 2, 3]]}, torch.tensor(2)], ids=str
    )
    def test_labels_come_back_as_they_were(self, tmp_path, label):
        made = campaign(tmp_path)
        batch = ask(made)
        made.tell(batch, {batch.keys[0]: label})
        assert campaign(tmp_path).labelled == {batch.keys[0]: label}
        assert made.training_set() == [(batch.indices[0], label)]

    @pytest.mark.parametrize(
        "number, answers, error, match",
        [
            (7, {"photo 1.png": 1}, ValueError, "`batch` must be one that was asked. Got 7"),
            (1, {"stranger": 1}, ValueError, "`answers` must be of batch 1. Got 'stranger'"),
            (1, ["cat"], TypeError, "`answers` must be labels by key"),
            (1, {"photo 1.png": object()}, TypeError, "that JSON can hold.*'photo 1.png'"),
            (1, {"photo 1.png": (1, 2)}, TypeError, "that JSON can hold"),
            (1, {"photo 1.png": float("nan")}, TypeError, "that JSON can hold"),
        ],
    )
    def test_errors_take_nothing(self, tmp_path, number, answers, error, match):
        made = campaign(tmp_path)
        batch = ask(made)
        if isinstance(answers, dict):
            answers = {batch.keys[0]: 1, **answers}
        before = lines(tmp_path)
        with pytest.raises(error, match=match):
            made.tell(number, answers)
        assert lines(tmp_path) == before


class TestKeys:
    @pytest.mark.slow
    def test_the_pool_may_grow_and_change_its_order(self, tmp_path):
        first = ask(campaign(tmp_path))
        more = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
        keys = [f"new {i}" for i in range(10)] + KEYS[::-1]
        grown = campaign(tmp_path, keys, torch.cat([more, X.flip(0)]))
        again = ask(grown)
        assert again.keys == first.keys
        assert [keys[i] for i in again.indices] == list(first.keys)
        grown.tell(again, dict.fromkeys(first.keys, 1))
        second = ask(grown, 35)
        assert {*second.keys} == {*keys} - {*first.keys}

    def test_a_function_and_what_has_left(self, tmp_path):
        made = Campaign(tmp_path, TensorDataset(X), lambda i: i * 7)
        batch = ask(made)
        made.tell(batch, dict.fromkeys(batch.keys, 1))
        assert all(int(key) % 7 == 0 for key in batch.keys)
        fewer = Campaign(tmp_path, TensorDataset(X[:3]), lambda i: i * 7)
        assert len(fewer.labelled) == 5
        assert fewer.progress[1] == 3

    @pytest.mark.parametrize(
        "keys, error, match",
        [
            (KEYS[:-1], ValueError, "`key` must have one for each of 30 samples"),
            ([*KEYS[:-1], KEYS[3]], ValueError, "Samples 3 and 29 are both 'photo 3.png'"),
            ("abc", TypeError, "`key` must be a sequence"),
            (3, TypeError, "`key` must be a sequence"),
        ],
    )
    def test_errors(self, tmp_path, keys, error, match):
        with pytest.raises(error, match=match):
            campaign(tmp_path, keys)
        with pytest.raises(TypeError, match="`pool` must be a dataset"):
            Campaign(tmp_path, iter(X), KEYS)


class TestStatus:
    @pytest.mark.slow
    def test_what_changed_and_when_to_stop(self, tmp_path):
        made = campaign(tmp_path, [f"k{i}" for i in range(60)], torch.cat([X, X + 1]))
        for round_, seed in enumerate((0, 1, 1, 1, 1)):
            batch = ask(made, 4, seed=seed)
            told = made.status()
            assert (told.rounds, told.open, told.waiting) == (round_ + 1, batch.id, batch.keys)
            made.tell(batch, dict.fromkeys(batch.keys, 0))
        told = made.status()
        x = torch.cat([X, X + 1])
        before, after = (network(seed)(x).argmax(1) for seed in (0, 1))
        assert told.changed[0] == pytest.approx(float((before != after).double().mean()))
        assert told.changed[1:] == (0, 0, 0)
        assert told.agreement[1:] == (1, 1, 1)
        assert -1 <= told.agreement[0] < 0.9
        assert "hardly changed over 3 rounds" in told.hint
        assert "20 of 60 samples labelled" in str(told)

    def test_no_hint_before(self, tmp_path):
        made = campaign(tmp_path)
        assert made.status().hint == "Ask for the next batch."
        batch = ask(made)
        assert "Tell the answers" in made.status().hint
        assert f"waits for {len(batch.keys)} answers" in str(made.status())


def test_label_studios_export():
    def task(key, *annotations):
        return {"data": {"key": key}, "annotations": list(annotations)}

    def choice(text, at, **more):
        result = [{"type": "choices", "value": {"choices": [text]}}]
        return {"result": result, "updated_at": f"2026-11-26T0{at}:00:00Z", **more}

    box = [{"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["a"]}}]
    found = label_studio_answers(
        [
            task("a", choice("cat", 1)),
            task("b", choice("dog", 5), choice("cat", 2)),
            task("c"),
            task("d", choice("cat", 1, was_cancelled=True)),
            task("e", {"result": [], "updated_at": "2026"}),
            task("f", {"result": box, "created_at": "2026"}),
        ]
    )
    assert found == {"a": "cat", "b": "dog", "d": None, "e": None, "f": box}
    with pytest.raises(ValueError, match="Task 0 has text"):
        label_studio_answers([{"data": {"text": "x"}}])


class TestAPoolThatShrinks:
    def test_what_is_gone_is_not_waited_for(self, tmp_path):
        first = ask(campaign(tmp_path))
        kept = [i for i in range(N) if KEYS[i] not in first.keys[2:]]
        smaller = Campaign(tmp_path, TensorDataset(X[kept]), [KEYS[i] for i in kept])
        again = ask(smaller)
        assert (again.id, again.keys, again.waiting) == (1, first.keys[:2], first.keys[:2])

    def test_a_batch_that_is_gone_gives_way_to_the_next(self, tmp_path):
        first = ask(campaign(tmp_path))
        kept = [i for i in range(N) if KEYS[i] not in first.keys]
        smaller = Campaign(tmp_path, TensorDataset(X[kept]), [KEYS[i] for i in kept])
        second = ask(smaller)
        assert second.id == 2
        assert len(second.waiting) == 5
        assert not {*second.keys} & {*first.keys}
        assert ask(smaller).waiting == second.waiting
        assert smaller.tell(first, dict.fromkeys(first.keys, "late")) == 5


class TestArgilla:
    def record(self, key, *values, **other):
        """As `dataset.records.to_json` of Argilla 2.8 writes it."""
        told = [{"value": value, "user_id": f"user {i}"} for i, value in enumerate(values)]
        return {
            "id": key, "fields": {"text": "t"}, "metadata": {}, "suggestions": {},
            "responses": {"label": told} if told else {}, "vectors": {}, "status": "pending",
            "_server_id": None, **other,
        }  # fmt: skip

    def test_answers_of_its_export(self):
        records = [
            self.record("a", "cat"), self.record("b"), self.record("c", "dog", "cat", "cat"),
            self.record("d", "dog", "cat"), self.record("e", ["x", "y"], ["z"], ["x", "y"]),
            self.record("f", responses={"other": [{"value": 1, "user_id": "u"}]}),
        ]  # fmt: skip
        expected = {"a": "cat", "c": "cat", "d": "dog", "e": ["x", "y"]}
        assert argilla_answers(records) == expected
        assert argilla_answers(records, "other") == {"f": 1}
        with pytest.raises(ValueError, match=r"`records` must have an id each. Record 1 has none"):
            argilla_answers([records[0], self.record(None)])

    def test_answers_of_its_records(self):
        def record(key, *told):
            made = [SimpleNamespace(question_name="label", value=v, status=s) for v, s in told]
            return SimpleNamespace(id=key, responses=made)

        records = [
            record("a", ("cat", "submitted")), record("b", ("cat", "draft")),
            record("c", ("cat", "discarded")), record("d", ("cat", "discarded"), ("dog", None)),
            record("e"),
        ]  # fmt: skip
        assert argilla_answers(records) == {"a": "cat", "c": None, "d": "dog"}
