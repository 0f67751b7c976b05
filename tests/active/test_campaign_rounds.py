"""What a campaign's rounds hand to `acquire`, and what is kept of them: seeds, groups, places."""

import json

import pytest
import torch
from torch.utils.data import TensorDataset

import fastgradnorm
from fastgradnorm.active.campaign import _choosing, _samples
from fastgradnorm.active.campaign._state import Batch, State
from fastgradnorm.active.campaign._status import status_of
from tests.support.campaigns import KEYS, N, X, ask, campaign, network


def skip(made, keys):
    """As what people would not label: of a batch that has these."""
    batch = ask(made, len(made.unlabelled))
    made.tell(batch, dict.fromkeys(keys))
    made.release(batch)
    return batch


def predicted(folder):
    """What the last batch watched."""
    events = [json.loads(line) for line in (folder / "campaign.jsonl").read_text().splitlines()]
    return [event["predicted"] for event in events if event["event"] == "ask"][-1]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["random", "gumbel", "proportional", "kmeans++"])
@pytest.mark.parametrize("seed", [0, 5])
def test_each_round_is_drawn_by_a_seed_of_its_own(tmp_path, strategy, seed):
    made, known = campaign(tmp_path), []
    for number in range(3):
        batch = made.ask(4, network(), strategy=strategy, seed=seed, progress=False)
        wanted = fastgradnorm.acquire(
            network(), TensorDataset(X), 4, labelled=known, strategy=strategy,
            seed=seed + number, progress=False,
        )  # fmt: skip
        assert list(batch.indices) == wanted.indices.tolist()
        known += batch.indices
        made.tell(batch, dict.fromkeys(batch.keys, 0))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["a list", "a mapping", "a tensor"])
def test_groups_are_those_of_the_samples_that_are_left(tmp_path, form):
    made, numbers = campaign(tmp_path), [i // 5 for i in range(N)]
    skip(made, [KEYS[i] for i in (0, 1, 2, 7, 8, 20)])
    groups = {"a list": numbers, "a mapping": dict(enumerate(numbers))}.get(form)
    groups = torch.tensor(numbers) if groups is None else groups
    batch = ask(made, 12, groups=groups, max_per_group=2)
    assert sorted(numbers[i] for i in batch.indices) == sorted([*range(6)] * 2)
    assert not {*batch.indices} & {0, 1, 2, 7, 8, 20}


def test_records_name_places_in_the_pool_as_it_is(tmp_path):
    first = ask(campaign(tmp_path))
    turned = campaign(tmp_path, KEYS[::-1], X.flip(0))
    again = ask(turned)
    assert again.keys == first.keys
    assert again.indices == tuple(N - 1 - i for i in first.indices)
    assert [row["index"] for row in again.records] == list(again.indices)
    assert [row["score"] for row in again.records] == [row["score"] for row in first.records]
    grown = campaign(tmp_path, ["new", *KEYS], torch.cat([X[:1], X]))
    assert [row["index"] for row in ask(grown).records] == [i + 1 for i in first.indices]


@pytest.mark.slow
def test_records_of_a_round_after_some_were_skipped(tmp_path):
    made = campaign(tmp_path)
    skip(made, KEYS[:4])
    batch = ask(made)
    assert batch.keys == tuple(KEYS[i] for i in batch.indices)
    assert [row["index"] for row in batch.records] == list(batch.indices)
    scores = fastgradnorm.score_pool(network(), [X], params="last_layer", progress=False)
    for row in batch.records:
        assert row["score"] == pytest.approx(float(scores[row["index"]]), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("label", ["cat", None])
def test_what_is_answered_while_a_batch_is_chosen_is_not_in_it(tmp_path, monkeypatch, label):
    made, other = campaign(tmp_path), campaign(tmp_path)
    first = ask(made, N)
    made.release(first)
    told = []

    def meanwhile(*args, **options):
        found = fastgradnorm.acquire(*args, **options)
        told.extend(KEYS[i] for i in found.indices.tolist()[:2])
        other.tell(first, dict.fromkeys(told, label))
        return found

    monkeypatch.setattr(_choosing, "acquire", meanwhile)
    batch = ask(made)
    assert len(batch.keys) == len(batch.records) == 3
    assert not {*batch.keys} & {*told}
    assert [row["index"] for row in batch.records] == list(batch.indices)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"subset": 12}, {"subset": 0.5, "params": "all"}], ids=str)
def test_predictions_that_are_watched_are_those_of_their_samples(tmp_path, options):
    made = campaign(tmp_path)
    skip(made, KEYS[3:7])
    made.ask(3, network(), progress=False, **options)
    found = predicted(tmp_path)
    classes = network()(X).argmax(1)
    assert found == {key: int(classes[KEYS.index(key)]) for key in found}
    assert len(found) == {None: 26, 12: 12, 0.5: 13}[options.get("subset")]
    assert not {*found} & {*KEYS[3:7]}


@pytest.mark.slow
def test_the_same_samples_are_watched_whatever_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(_samples, "_WATCHED", 6)
    ask(campaign(tmp_path / "a"))
    ask(campaign(tmp_path / "b", KEYS[::-1], X.flip(0)))
    assert predicted(tmp_path / "a") == predicted(tmp_path / "b")
    assert {*predicted(tmp_path / "a")} != {*KEYS[:6]}
    # One sample more takes the place of one at most.
    ask(campaign(tmp_path / "c", ["new", *KEYS], torch.cat([X[:1], X])))
    assert len({*predicted(tmp_path / "a")} & {*predicted(tmp_path / "c")}) >= 5


@pytest.mark.parametrize("count", [1, 29, 30, 100])
@pytest.mark.parametrize("rounds", [3, 4, 6])
@pytest.mark.parametrize("same", [True, False])
def test_the_hint_to_stop_takes_samples_and_rounds(count, rounds, same):
    """Three comparisons over thirty samples, all of which agree."""
    state = State()
    for number in range(1, rounds + 1):
        classes = {str(i): (i + (0 if same else number)) % 3 for i in range(count)}
        state.batches[number] = Batch(number, (), (), classes, count, 5)
    told = status_of(state, count)
    enough = same and count >= 30 and rounds >= 4
    assert ("hardly changed" in told.hint) == enough
    assert told.changed == (0.0 if same else 1.0,) * (rounds - 1)
    assert (told.rounds, len(told.agreement)) == (rounds, rounds - 1)


@pytest.mark.parametrize("count", [30, 1000])
@pytest.mark.parametrize("moved", [0, 1, 2])
def test_the_same_model_again_is_asked_about(count, moved):
    """Where not one prediction changes, it may be that nobody trained it."""
    state = State()
    for number in range(1, 6):
        classes = {str(i): i % 3 for i in range(count)}
        classes |= {str(i): number % 2 for i in range(moved * (count == 1000))}
        state.batches[number] = Batch(number, (), (), classes, count, 5)
    hint = status_of(state, count).hint
    assert "hardly changed" in hint
    assert ("was the model trained" in hint) == (count == 30 or not moved)


@pytest.mark.parametrize("seen", [(0,), (2,), (0, 2), (1, 0)])
def test_one_class_for_all_is_no_hint_to_stop(seen):
    """A model that knows nothing yet agrees with itself."""
    state = State()
    for number in range(1, 6):
        classes = {str(i): seen[i % len(seen)] for i in range(60)}
        state.batches[number] = Batch(number, (), (), classes, 60, 5)
    told = status_of(state, 60)
    assert ("hardly changed" in told.hint) == (len(seen) > 1)
    assert told.agreement == (1.0,) * 4


def test_a_pool_that_shrank_counts_what_is_in_it(tmp_path):
    made = campaign(tmp_path)
    made.add_labels({KEYS[0]: 1, KEYS[5]: 2, KEYS[7]: 0})
    left = fastgradnorm.active.Campaign(tmp_path, TensorDataset(X[:6]), KEYS[:6])
    told = left.status()
    assert (told.labelled, told.samples) == left.progress == (2, 6)
    assert "2 of 6 samples labelled" in str(told)
    assert len(left.labelled) == 3
    assert fastgradnorm.active.Campaign(tmp_path).status().labelled == 3
