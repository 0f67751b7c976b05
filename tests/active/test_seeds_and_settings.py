"""A run's seed reaches each cycle, in its own way, and its settings tell it from others."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from fastgradnorm.active import ActiveLearner, Strategy, load_runs, strategies, strategy
from fastgradnorm.active._randomness import own_random_state, seed_all
from fastgradnorm.active._records import append
from tests.support.small_task import OPTIONS, SmallTask, curve


class Spy(Strategy):
    """Chooses the first; notes what it is given."""

    name = "spy"

    def __init__(self):
        self.seeds, self.candidates, self.sizes, self.options = [], [], [], []

    def score(self, context):
        self.seeds.append(context.seed)
        self.candidates.append(context.indices.tolist())
        self.sizes += [len(batch) for batch in context.candidates]
        self.options.append(dict(context.score_options))

    def pick(self, context, scored):
        return torch.arange(context.budget)


class Untrained(SmallTask):
    """Notes the seeds that it is trained with."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seeds, self.made = [], []

    def make_model(self, seed):
        self.made.append(seed)
        return super().make_model(seed)

    def train(self, model, labelled, seed):
        self.seeds.append(seed)
        with torch.no_grad():
            next(model.parameters()).add_(1.0)


def spied(**options):
    task, spy = Untrained(), Spy()
    run = ActiveLearner(task, spy, **{**OPTIONS, **options}).run()
    return task, spy, run


def test_every_cycle_has_seeds_of_its_own():
    task, spy, _ = spied(seed=3)
    assert len(set(spy.seeds)) == 3
    assert len(set(task.seeds)) == len(set(task.made)) == 4
    assert not {*spy.seeds} & {*task.seeds} & {*task.made}
    again, other = spied(seed=3), spied(seed=4)
    assert again[0].seeds == task.seeds
    assert again[1].seeds == spy.seeds
    assert not {*other[0].seeds} & {*task.seeds}
    assert not {*other[1].seeds} & {*spy.seeds}


def test_every_cycle_scores_a_fresh_part_of_the_pool():
    _, spy, _ = spied(subset=20)
    assert [len(part) for part in spy.candidates] == [20, 20, 20]
    first, second, third = (set(part) for part in spy.candidates)
    # By chance 20 of some 50: two of them share 8 or so. The same ones, but for the 4 bought: 16.
    assert len(first & second) < 14
    assert len(second & third) < 14


def test_a_tasks_batch_size_and_options_reach_the_strategy():
    class Own(Untrained):
        batch_size = 7
        score_options = {"temperature": 2.0}  # noqa: RUF012 - as users write it

    spy = Spy()
    ActiveLearner(Own(), spy, **{**OPTIONS, "cycles": 1}).run()
    assert max(spy.sizes) == 7
    assert spy.options == [{"temperature": 2.0}]


def test_warm_starts_go_on_from_the_last_weights(tmp_path):
    """Also where the run was stopped: each training adds one, so that weights count the cycles."""

    class Counting(Untrained):
        def make_model(self, seed):
            super().make_model(seed)
            model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
            nn.init.zeros_(model[1].weight)
            return model

        def evaluate(self, model):
            return {"trainings": float(model[1].weight.detach().mean())}

    for warm_start, expected in ((True, [1.0, 2.0, 3.0, 4.0]), (False, [1.0] * 4)):
        options = {**OPTIONS, "warm_start": warm_start, "strategy": "random"}
        assert ActiveLearner(Counting(), **options).run().curve().tolist() == expected
        file = tmp_path / f"{warm_start}.jsonl"
        ActiveLearner(Counting(), run_file=file, **{**options, "cycles": 1}).run()
        run = ActiveLearner(Counting(), run_file=file, **options).run()
        assert run.curve().tolist() == expected


CHANGES = {
    "seed": 8,
    "start": 7,
    "budget": 3,
    "subset": 25,
    "warm_start": True,
    "strategy": "margin",
}


@pytest.mark.parametrize("name", [*CHANGES, "task", "pool"])
def test_another_setting_is_another_run(tmp_path, name):
    file = tmp_path / "runs.jsonl"
    options = {**OPTIONS, "cycles": 1, "strategy": "random", "seed": 0}
    ActiveLearner(Untrained(), run_file=file, **options).run()
    task = Untrained(n=50) if name == "pool" else Untrained()
    if name == "task":
        task.name = "another"
    other = {**options, **({name: CHANGES[name]} if name in CHANGES else {})}
    run = ActiveLearner(task, run_file=file, **other).run()
    assert len(task.seeds) == 2, "it went on with the other run"
    assert len(load_runs(file)) == 2
    assert curve(run) == curve(load_runs(file)[1])


def test_pythons_random_numbers_are_left_as_they_were():
    class Drawing(Untrained):
        def train(self, model, labelled, seed):
            random.random()

    before = random.getstate()
    ActiveLearner(Drawing(), "random", **{**OPTIONS, "cycles": 1}).run()
    assert random.getstate() == before


def test_a_line_cut_off_by_a_kill_costs_no_other(tmp_path):
    file = tmp_path / "runs.jsonl"
    settings = {"task": "t", "strategy": "s", "seed": 0}
    append(file, settings, {"cycle": 0, "chosen": [1]})
    with file.open("a") as torn:
        torn.write('{"settings": {"task": "t", "strat')
    append(file, settings, {"cycle": 1, "chosen": [2]})
    (run,) = load_runs(file)
    assert [record["chosen"] for record in run.records] == [[1], [2]]


def test_cycles_after_an_end_are_no_part_of_a_run(tmp_path):
    """A shorter run ended there; what a longer one wrote later belongs to that one."""
    file = tmp_path / "runs.jsonl"
    settings = {"task": "t", "strategy": "s", "seed": 0}
    for cycle, chosen in ((0, [1]), (1, []), (2, [3])):
        append(file, settings, {"cycle": cycle, "chosen": chosen})
    (run,) = load_runs(file)
    assert len(run.records) == 2


class TestRegistry:
    def test_names(self):
        for name in strategies():
            assert strategy(name).name == name
        assert {"random", "badge", "published", "expected/all/gumbel"} <= {*strategies()}

    def test_unknown_names_are_told_with_near_ones(self):
        with pytest.raises(ValueError, match="Close to it: expected/all/top"):
            strategy("expected/al/top")


@pytest.mark.parametrize("kind", ["MT19937", "PCG64"])
def test_the_callers_generator_of_numpy_may_be_another(kind):
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(getattr(np.random, kind)(8))
    try:
        with own_random_state():
            first = np.random.rand()
            seed_all(3)
        assert np.random.rand() == first
    finally:
        np.random.set_bit_generator(before)
