"""The loop: reproducible, checked, blind to labels that were not bought."""

import json

import numpy as np
import pytest
import torch

from fastgradnorm.active import ActiveLearner, Strategy
from tests.support.small_task import OPTIONS, SmallTask, curve


@pytest.fixture(scope="module")
def whole():
    return ActiveLearner(SmallTask(), "badge", seed=3, **OPTIONS).run()


class TestRun:
    @pytest.mark.slow
    def test_labels_grow_by_the_budget(self, whole):
        assert whole.labelled.tolist() == [6, 10, 14, 18]
        assert len(set(whole.indices)) == 18
        assert whole.records[-1]["chosen"] == []
        assert whole.metrics == ("accuracy", "loss")
        assert (whole.seconds("train") > 0).all()

    @pytest.mark.slow
    def test_the_task_trains_on_what_was_chosen(self):
        task = SmallTask()
        run = ActiveLearner(task, "margin", **OPTIONS).run()
        assert task.trained == [run.indices[:n] for n in (6, 10, 14, 18)]

    @pytest.mark.slow
    def test_same_seed_same_curve(self, whole):
        torch.manual_seed(99)
        np.random.seed(99)
        assert curve(ActiveLearner(SmallTask(), "badge", seed=3, **OPTIONS).run()) == curve(whole)
        other = ActiveLearner(SmallTask(), "badge", seed=4, **OPTIONS).run()
        assert other.records[0]["start"] != whole.records[0]["start"]

    @pytest.mark.slow
    def test_strategies_of_a_seed_start_alike(self, whole):
        other = ActiveLearner(SmallTask(), "random", seed=3, **OPTIONS).run()
        assert other.records[0]["start"] == whole.records[0]["start"]
        assert other.records[0]["metrics"] == whole.records[0]["metrics"]
        assert other.records[0]["chosen"] != whole.records[0]["chosen"]

    def test_random_states_are_left_as_they_were(self):
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()
        ActiveLearner(SmallTask(), "random", **{**OPTIONS, "cycles": 1}).run()
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == np.random.get_state()[1].tolist()

    @pytest.mark.slow
    def test_subset(self):
        seen = []

        class Spy(Strategy):
            name = "spy"

            def score(self, context):
                seen.append((context.indices.tolist(), context.labelled.tolist()))

            def pick(self, context, scored):
                return torch.arange(context.budget)

        for subset, count in ((30, 30), (0.5, 30), (None, 54)):
            seen.clear()
            ActiveLearner(SmallTask(), Spy(), **{**OPTIONS, "subset": subset}).run()
            assert len(seen[0][0]) == count
            assert seen[0][0] != seen[1][0]
            assert not any(set(candidates) & set(labelled) for candidates, labelled in seen)

    @pytest.mark.slow
    def test_ends_when_all_is_labelled(self):
        options = {**OPTIONS, "start": list(range(50)), "cycles": 9, "subset": None}
        run = ActiveLearner(SmallTask(), "random", **options).run()
        assert run.labelled.tolist() == [50, 54, 58, 60]
        assert sorted(run.indices) == list(range(60))

    def test_no_label_is_read_before_it_is_bought(self):
        """The task guards the labels; this is the guard's own test."""
        task = SmallTask()
        task.data.bought = {1}
        with pytest.raises(AssertionError, match="unlabelled sample was read"):
            int(task.data[0][1])
        with pytest.raises((AssertionError, TypeError)):
            torch.utils.data.default_collate([task.data[0], task.data[2]])

    @pytest.mark.slow
    def test_warm_start_goes_on_from_the_weights(self):
        made = []

        class Counting(SmallTask):
            def make_model(self, seed):
                made.append(seed)
                return super().make_model(seed)

        ActiveLearner(Counting(), "random", warm_start=True, **OPTIONS).run()
        assert len(made) == 1
        ActiveLearner(Counting(), "random", **OPTIONS).run()
        assert len(set(made)) == 5 or len(set(made)) == 4  # one a cycle, the first is shared


class TestErrors:
    @pytest.mark.parametrize(
        "options, message",
        [
            ({"budget": 0}, "`budget` must be an integer >= 1. Got 0"),
            ({"cycles": -1}, "`cycles` must be an integer >= 0"),
            ({"start": 61}, "`start` must be an integer >= 1 and <= 60"),
            ({"start": [1, 1]}, "`start` must be different indices"),
            ({"start": [60]}, "`start` must be different indices"),
            ({"subset": 1.5}, r"`subset` must be a share in \(0, 1\]"),
            ({"subset": 0}, "`subset` must be an integer >= 1"),
            ({"subset": 3}, "`subset` must be at least the 4 items of `budget`. Got 3"),
            ({"subset": 0.05}, "which is 3 of 60"),
        ],
    )
    def test_values(self, options, message):
        with pytest.raises(ValueError, match=message):
            ActiveLearner(SmallTask(), "random", **{**OPTIONS, **options})

    def test_types(self):
        with pytest.raises(TypeError, match="`task` must have name, pool"):
            ActiveLearner(torch.nn.Linear(1, 1), "random", **OPTIONS)
        with pytest.raises(TypeError, match="`budget` must be an integer"):
            ActiveLearner(SmallTask(), "random", **{**OPTIONS, "budget": 1.0})

    @pytest.mark.parametrize(
        "positions, message",
        [
            (lambda c: torch.zeros(c.budget, dtype=torch.int64), "chose 1 different ones of 4"),
            (lambda c: torch.arange(c.budget + 1), "must choose 4 different items"),
        ],
    )
    def test_strategies_that_choose_badly(self, positions, message):
        class Bad(Strategy):
            name = "bad"

            def score(self, context):
                return None

            def pick(self, context, scored):
                return positions(context)

        with pytest.raises(ValueError, match=message):
            ActiveLearner(SmallTask(), Bad(), **OPTIONS).run()

    def test_strategies_that_choose_others(self):
        class Greedy(Strategy):
            name = "greedy"

            def score(self, context):
                return None

            def pick(self, context, scored):
                raise NotImplementedError

            def select(self, context):
                return context.labelled[: context.budget]

        with pytest.raises(ValueError, match="must choose among"):
            ActiveLearner(SmallTask(), Greedy(), **OPTIONS).run()


@pytest.mark.slow
def test_provenance(tmp_path):
    file = tmp_path / "runs.jsonl"
    ActiveLearner(SmallTask(), "expected/all/top", run_file=file, **OPTIONS).run()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["cycle"] for line in lines] == [0, 1, 2, 3]
    assert lines[0]["settings"] == {
        "task": "small",
        "strategy": "expected/all/top",
        "seed": 0,
        "start": 6,
        "budget": 4,
        "subset": 30,
        "warm_start": False,
        "pool": 60,
    }
    for line in lines[:-1]:
        assert {*line["seconds"]} == {"train", "evaluate", "score", "select"}
        assert line["seconds"]["score"] > 0
        assert line["versions"]["torch"] == torch.__version__
        assert line["environment"] == {"device": "cpu", "threads": 1}
