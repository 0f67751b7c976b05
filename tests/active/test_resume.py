"""Runs that were stopped or killed go on as if nothing had happened."""

import textwrap

import pytest

from fastgradnorm.active import ActiveLearner, load_runs
from tests.support import warm
from tests.support.small_task import OPTIONS, SmallTask, curve

pytestmark = pytest.mark.slow


class TestResume:
    @pytest.mark.parametrize("warm_start", [False, True])
    def test_from_any_cycle(self, tmp_path, warm_start):
        options = {**OPTIONS, "warm_start": warm_start, "seed": 3}
        whole = ActiveLearner(SmallTask(), "margin", **options).run()
        for cycle in range(4):
            file = tmp_path / f"{cycle}.jsonl"
            task = Stopping(cycle)
            with pytest.raises(KeyboardInterrupt):
                ActiveLearner(task, "margin", run_file=file, **options).run()
            if cycle:
                assert len(load_runs(file)[0].records) == cycle
            task = SmallTask()
            run = ActiveLearner(task, "margin", run_file=file, **options).run()
            assert curve(run) == curve(whole)
            assert len(task.trained) == 4 - cycle
            (stored,) = load_runs(file)
            assert curve(stored) == curve(whole)

    def test_a_finished_run_is_not_run_again(self, tmp_path):
        file = tmp_path / "runs.jsonl"
        run = ActiveLearner(SmallTask(), "random", run_file=file, **OPTIONS).run()
        text, task = file.read_text(), SmallTask()
        assert curve(ActiveLearner(task, "random", run_file=file, **OPTIONS).run()) == curve(run)
        assert task.trained == []
        assert file.read_text() == text

    def test_more_cycles_go_on(self, tmp_path):
        file = tmp_path / "runs.jsonl"
        longer = {**OPTIONS, "cycles": 4}
        whole = ActiveLearner(SmallTask(), "entropy", **longer).run()
        ActiveLearner(SmallTask(), "entropy", run_file=file, **OPTIONS).run()
        run = ActiveLearner(SmallTask(), "entropy", run_file=file, **longer).run()
        assert curve(run) == curve(whole)
        assert curve(load_runs(file)[0]) == curve(whole)
        shorter = ActiveLearner(SmallTask(), "entropy", run_file=file, **OPTIONS).run()
        assert curve(shorter)[:3] == curve(whole)[:3]

    def test_runs_share_a_file(self, tmp_path):
        file = tmp_path / "runs.jsonl"
        for seed in (0, 1):
            for name in ("random", "margin"):
                options = {**OPTIONS, "cycles": 1, "seed": seed}
                ActiveLearner(SmallTask(), name, run_file=file, **options).run()
        found = [(run.strategy, run.seed, len(run.records)) for run in load_runs(file)]
        assert found == [("random", 0, 2), ("margin", 0, 2), ("random", 1, 2), ("margin", 1, 2)]

    def test_missing_weights_are_told(self, tmp_path):
        options = {**OPTIONS, "warm_start": True, "run_file": tmp_path / "runs.jsonl"}
        with pytest.raises(KeyboardInterrupt):
            ActiveLearner(Stopping(2), "random", **options).run()
        for file in (tmp_path / "runs.jsonl.weights").iterdir():
            file.unlink()
        with pytest.raises(FileNotFoundError, match="must have the weights of cycle 1"):
            ActiveLearner(SmallTask(), "random", **options).run()

    def test_killed_in_the_middle_of_a_cycle(self, tmp_path):
        places = ["train", "evaluate", "score"]
        done = warm.run(KILLED, tmp_path, *places)
        assert done.returncode == 0, done.stderr
        name = "expected/last_layer/gumbel"
        whole = ActiveLearner(SmallTask(), name, seed=3, **OPTIONS).run()
        for where in places:
            file = tmp_path / where
            assert len(load_runs(file)[0].records) == 2
            run = ActiveLearner(SmallTask(), name, seed=3, run_file=file, **OPTIONS).run()
            assert curve(run) == curve(whole)


class Stopping(SmallTask):
    """Stopped while it evaluates a cycle."""

    def __init__(self, cycle):
        super().__init__()
        self.cycle = cycle

    def evaluate(self, model):
        if len(self.trained) == self.cycle + 1:
            raise KeyboardInterrupt
        return super().evaluate(model)


# One process a place, each killed there in the third cycle.
KILLED = textwrap.dedent(
    """
    import os, signal, sys
    import torch
    import fastgradnorm
    from tests.support.small_task import SmallTask
    from fastgradnorm.active import ActiveLearner

    score_pool = fastgradnorm.score_pool

    class Task(SmallTask):
        where = ""

        def kill(self, where):
            if where == self.where and len(self.trained) == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        def train(self, model, labelled, seed):
            super().train(model, labelled, seed)
            self.kill("train")

        def evaluate(self, model):
            self.kill("evaluate")
            return super().evaluate(model)

    def run(file, where):
        task = Task()
        task.where = where

        def killing(*args, **kwargs):
            scores = score_pool(*args, **kwargs)
            task.kill("score")
            return scores

        fastgradnorm.score_pool = killing
        options = dict(start=6, budget=4, cycles=3, subset=30, progress=False, seed=3)
        ActiveLearner(task, "expected/last_layer/gumbel", run_file=file, **options).run()

    folder, *places = sys.argv[1:]
    for where in places:
        child = os.fork()
        if not child:
            run(os.path.join(folder, where), where)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (where, status)
    """
)
