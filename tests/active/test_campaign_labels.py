"""Labels that were there before anything was asked, and what names, folders and batches mean."""

import json
import os

import pytest
import torch
from torch.utils.data import TensorDataset

import fastgradnorm
from fastgradnorm.active import Campaign
from tests.support.campaigns import KEYS, N, X, ask, campaign, lines, network


class TestLabelsThatAreThere:
    @pytest.mark.slow
    def test_they_are_not_asked_and_the_choice_starts_from_them(self, tmp_path):
        made = campaign(tmp_path / "new")
        known = {KEYS[i]: i % 3 for i in range(9)}
        assert made.add_labels(known) == 9
        batch = ask(made)
        wanted = fastgradnorm.acquire(
            network(), TensorDataset(X), 5, labelled=range(9), progress=False
        )
        assert list(batch.indices) == wanted.indices.tolist()
        assert made.training_set() == [(i, i % 3) for i in range(9)]
        assert made.progress == (9, N)
        assert made.labelled == known
        made.tell(batch, dict.fromkeys(batch.keys, 0))
        rest = ask(made, N - 14)
        assert not {*rest.keys} & ({*known} | {*batch.keys})

    def test_they_are_counted_before_anything_is_asked(self, tmp_path):
        campaign(tmp_path).add_labels({KEYS[0]: "a"})
        told = Campaign(tmp_path).status()
        assert (told.labelled, told.samples, told.rounds, told.open) == (1, N, 0, None)

    def test_once_however_often_and_a_correction_stays(self, tmp_path):
        made = campaign(tmp_path)
        batch = ask(made)
        first, other = batch.keys[0], next(key for key in KEYS if key not in batch.keys)
        assert made.add_labels({other: 1, first: "before"}) == 2
        size = len(lines(tmp_path))
        for _ in range(2):
            assert campaign(tmp_path).add_labels({other: 1, first: "before"}) == 0
        assert len(lines(tmp_path)) == size
        assert ask(made).waiting == batch.keys[1:]
        assert made.tell(batch, {first: "corrected"}) == 1
        assert campaign(tmp_path).add_labels({first: "before"}) == 0
        assert made.labelled[first] == "corrected"
        assert made.add_labels({other: 2}) == 1
        assert made.labelled[other] == 2

    def test_those_that_have_left_the_pool_may_be_told_again(self, tmp_path):
        campaign(tmp_path).add_labels({KEYS[0]: 1, KEYS[5]: 2})
        smaller = campaign(tmp_path, KEYS[1:], X[1:])
        assert smaller.add_labels({KEYS[0]: 1, KEYS[5]: 2}) == 0
        assert smaller.training_set() == [(4, 2)]

    def test_a_line_that_was_cut_off_takes_none(self, tmp_path):
        campaign(tmp_path).add_labels({KEYS[0]: 1})
        campaign(tmp_path).add_labels({KEYS[1]: 1, KEYS[2]: 3})
        (tmp_path / "campaign.jsonl").write_bytes(lines(tmp_path)[:-9])
        with pytest.warns(UserWarning, match="was cut off"):
            made = campaign(tmp_path)
        assert made.labelled == {KEYS[0]: 1}
        assert made.add_labels({KEYS[1]: 1, KEYS[2]: 3}) == 2
        assert len(lines(tmp_path).splitlines()) == 2

    @pytest.mark.parametrize(
        "given, error, match",
        [
            (
                {"photo 3.pgn": 1},
                ValueError,
                r"of the pool\. Got 'photo 3.pgn'.*mean 'photo 3.png'",
            ),
            ({"photo 3.png": None}, ValueError, "Got None for 'photo 3.png'. Leave out"),
            ({"photo 3.png": {1}}, TypeError, "that JSON can hold"),
            ([1, 2], TypeError, "`answers` must be labels by key"),
        ],
    )
    def test_errors_take_nothing(self, tmp_path, given, error, match):
        made = campaign(tmp_path)
        with pytest.raises(error, match=match):
            made.add_labels({KEYS[0]: 1, **given} if isinstance(given, dict) else given)
        assert made.labelled == {}

    def test_they_are_no_batch(self, tmp_path):
        made = campaign(tmp_path)
        made.add_labels({KEYS[0]: 1})
        for call in (lambda: made.tell(0, {KEYS[0]: 2}), lambda: made.release(0)):
            with pytest.raises(ValueError, match=r"`batch` must be one that was asked\. Got 0"):
                call()
        with pytest.raises(ValueError, match="`pool` must be given to the campaign"):
            Campaign(tmp_path).add_labels({KEYS[0]: 1})
        with pytest.raises(TypeError, match=r"`labelled` must be left out.*`add_labels`"):
            ask(made, labelled=[0])


class TestWithoutAPool:
    def test_what_needs_one_says_so(self, tmp_path):
        batch = ask(campaign(tmp_path))
        made = Campaign(tmp_path)
        assert made.tell(batch, {batch.keys[0]: 1}) == 1
        assert made.labelled == {batch.keys[0]: 1}
        for call in (made.training_set, lambda: made.unlabelled, lambda: made.progress):
            with pytest.raises(ValueError, match="`pool` must be given to the campaign, with its"):
                call()
        with pytest.raises(ValueError, match="`labelled` has labels by key"):
            made.training_set()

    def test_a_pool_whose_keys_are_others(self, tmp_path):
        batch = ask(campaign(tmp_path))
        made = campaign(tmp_path, [f"pool/{key}" for key in KEYS])
        assert made.training_set() == []
        made.tell(batch, {batch.keys[0]: 1})
        with pytest.warns(UserWarning, match=f"None of 1 labels.*{batch.keys[0]}.*'pool/photo 0"):
            assert made.training_set() == []


class TestAFolderThatIsNotThere:
    @pytest.mark.parametrize("pool", [(), (TensorDataset(X), KEYS)], ids=["no pool", "a pool"])
    def test_is_told_and_not_made(self, tmp_path, pool):
        batch = ask(campaign(tmp_path / "labels"))
        typo = tmp_path / "labls"
        made = Campaign(typo, *pool)
        calls = [lambda: made.release(1), lambda: made.tell(1, {batch.keys[0]: 1})]
        calls += [] if pool else [made.status, lambda: made.labelled]
        for call in calls:
            with pytest.raises(ValueError, match=r"`folder` must be .*labls'\. Did you mean.*ls'?"):
                call()
            assert not typo.exists()

    def test_with_a_pool_a_campaign_may_begin_there(self, tmp_path):
        """As in a loop that trains before it asks for the first time."""
        made = campaign(tmp_path / "labels")
        assert made.training_set() == []
        assert (made.labelled, made.progress, made.status().samples) == ({}, (0, N), N)
        assert not [*tmp_path.iterdir()]
        assert ask(made).id == 1

    def test_nor_is_one_that_is_empty_a_campaign(self, tmp_path):
        empty = tmp_path / "inside" / "empty"
        empty.mkdir(parents=True)
        with pytest.raises(ValueError, match=r"in which `ask` began a campaign\. Got .*empty'\.$"):
            Campaign(empty).status()
        assert campaign(empty).status().rounds == 0  # with a pool, one may begin here
        assert not [*empty.iterdir()]


class TestAnOpenBatch:
    @pytest.mark.parametrize(
        "given, match",
        [
            ({"k": 9}, r"its 5 samples are given again\. .* for `k=9` to take effect"),
            ({"strategy": "margin"}, "for `strategy='margin'` to"),
            ({"k": 4, "strategy": "margin", "seed": 1}, "`k=4` and `strategy='margin'` and `seed"),
        ],
    )
    def test_that_was_asked_for_otherwise_is_told(self, tmp_path, given, match):
        made = campaign(tmp_path)
        first = ask(made)
        with pytest.warns(UserWarning, match=f"Batch 1 is open: .*{match}") as told:
            again = made.ask(given.pop("k", 5), network(), progress=False, **given)
        assert told[0].filename == __file__
        assert again.keys == first.keys
        made.tell(first, {first.keys[0]: 1})
        with pytest.warns(UserWarning, match="are given again, 4 of which have no answer"):
            ask(made, 7)

    def test_that_was_asked_for_so_is_not(self, tmp_path):
        for _ in range(2):
            ask(campaign(tmp_path))
        events = [json.loads(line) for line in lines(tmp_path).splitlines()]
        for event in events:  # as an earlier version wrote it
            del event["k"], event["strategy"], event["seed"], event["root"]
        text = "".join(json.dumps(event) + "\n" for event in events)
        (tmp_path / "campaign.jsonl").write_text(text)
        assert ask(campaign(tmp_path)).id == 1

    def test_is_short_in_print(self, tmp_path):
        made = campaign(tmp_path)
        batch = ask(made)
        first = ", ".join(map(repr, batch.keys[:3]))
        assert repr(batch) == f"<batch 1 of 5 samples, open, 5 without an answer: {first}, …>"
        made.tell(batch, dict.fromkeys(batch.keys[1:], 1))
        assert "open, 1 without an answer" in str(ask(made))
        made.tell(batch, dict.fromkeys(batch.keys[:1], 1))
        one = ask(made, 1)
        assert repr(one) == f"<batch 2 of 1 sample, open, 1 without an answer: {one.keys[0]!r}>"


class TestPaths:
    KEYS = (*(f"cam{i % 3}/{i}.png" for i in range(N - 1)), "cam0")

    def made(self, root="photos", folder="labels"):
        return Campaign(folder, TensorDataset(X), self.KEYS, root=root)

    @pytest.fixture(autouse=True)
    def place(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize(
        "path", ["photos/{}", "./photos/{}", "photos/../photos/{}", "{here}/photos/{}", "link/{}"]
    )
    def test_that_lead_to_a_sample_name_it(self, tmp_path, path):
        (tmp_path / "photos").mkdir()
        (tmp_path / "link").symlink_to("photos")
        key = ask(self.made()).keys[0]
        named = path.format(key, here=tmp_path)
        assert Campaign("labels").tell(1, {named: "cat"}) == 1  # the batch knows its folder
        assert Campaign("labels").tell(1, {key: "cat"}) == 0
        assert self.made().add_labels({named: "cat"}) == 1
        assert self.made().labelled == {key: "cat"}

    @pytest.mark.parametrize("path", ["other/{}", "{}/x", "photos/x/{}"])
    def test_that_lead_elsewhere_are_told(self, path):
        key = ask(self.made()).keys[0]
        with pytest.raises(ValueError, match=f"which is not in it. Did you mean {key!r}"):
            Campaign("labels").tell(1, {path.format(key): "cat"})
        assert self.made().labelled == {}

    def test_without_a_folder_are_told(self):
        key = ask(self.made(root=None)).keys[0]
        with pytest.raises(ValueError, match=f"Got 'photos/{key}'.*Did you mean {key!r}"):
            Campaign("labels").tell(1, {f"photos/{key}": "cat"})

    def test_that_are_another_samples_name_too_are_told(self, tmp_path, monkeypatch):
        """From within a folder of the pool `0.png` may be a path, or a key of another batch."""
        batch = ask(self.made(), N)
        key = next(key for key in batch.keys if key.startswith("cam1/"))
        (tmp_path / "photos" / "cam1").mkdir(parents=True)
        (tmp_path / "photos" / os.path.basename(key)).touch()
        monkeypatch.chdir(tmp_path / "photos" / "cam1")
        made = Campaign(tmp_path / "labels")
        with pytest.raises(ValueError, match="which is not in it"):
            made.tell(1, {os.path.basename(key): 1})
        (tmp_path / "photos" / os.path.basename(key)).unlink()
        assert made.tell(1, {os.path.basename(key): 1}) == 1
        assert made.labelled == {key: 1}

    def test_two_of_one_sample_are_one_label(self):
        key = ask(self.made()).keys[0]
        with pytest.raises(ValueError, match=r"one label a sample\. Got two for"):
            self.made().tell(1, {key: 1, f"photos/{key}": 2})
        assert self.made().tell(1, {key: 1, f"photos/{key}": 1}) == 1
        assert torch.tensor(self.made().labelled[key]) == 1
