"""Files of results, and their pictures."""

import numpy as np
import pytest

from fastgradnorm.active import Run, load_runs, plot
from fastgradnorm.active._records import append


def settings(strategy="random", seed=0, task="small"):
    return {"task": task, "strategy": strategy, "seed": seed}


def record(cycle, chosen=(1,), value=0.5):
    return {
        "cycle": cycle,
        "labelled": 10 + cycle,
        "metrics": {"accuracy": value, "loss": -value},
        "seconds": {"train": 1.0},
        "chosen": list(chosen),
    }


def test_a_run_in_one_line():
    made = Run(settings("margin", 3), (record(0, value=0.25), record(4, value=0.87654)))
    assert repr(made) == (
        "Run('small' by 'margin', seed 3: 10 to 14 labels, accuracy 0.25 to 0.8765, "
        "loss -0.25 to -0.8765)"
    )
    assert repr(Run(settings(), ())) == "Run('small' by 'random', seed 0, nothing yet)"


def runs(count=3):
    return [
        Run(settings(s, n), tuple(record(c, value=n + c) for c in range(4)))
        for s in ("random", "margin")
        for n in range(count)
    ]


class TestFiles:
    def test_a_line_cut_off_is_left_out_and_the_next_is_whole(self, tmp_path):
        file = tmp_path / "runs.jsonl"
        append(file, settings(), record(0))
        append(file, settings(), record(1))
        whole = file.read_bytes()
        for cut in (1, 2, 30, len(whole) // 2 - 1):
            file.write_bytes(whole[:-cut])
            expected = 2 if cut == 1 else 1  # without its line break a line is still whole
            assert len(load_runs(file)[0].records) == expected
            append(file, settings(), record(1, value=0.9))
            (run,) = load_runs(file)
            assert run.curve().tolist() == [0.5, 0.9]

    def test_cycles_after_a_missing_one_are_left_out(self, tmp_path):
        file = tmp_path / "runs.jsonl"
        for cycle in (0, 1, 3):
            append(file, settings(), record(cycle))
        assert len(load_runs(file)[0].records) == 2

    def test_several_files(self, tmp_path):
        for seed in (0, 1):
            append(tmp_path / f"{seed}.jsonl", settings(seed=seed), record(0))
        found = load_runs(tmp_path / "0.jsonl", tmp_path / "1.jsonl")
        assert [run.seed for run in found] == [0, 1]

    def test_errors(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load_runs(tmp_path / "none.jsonl")
        (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
        with pytest.raises(ValueError, match="Line 1 of"):
            load_runs(tmp_path / "other.jsonl")


class TestPlot:
    @pytest.mark.slow
    def test_mean_and_spread(self, tmp_path):
        ax = plot(runs(), path=tmp_path / "curves.png")
        assert (tmp_path / "curves.png").stat().st_size > 1000
        line = ax.lines[0]
        assert line.get_xdata().tolist() == [10, 11, 12, 13]
        assert line.get_ydata().tolist() == [1, 2, 3, 4]
        band = ax.collections[0].get_paths()[0].vertices
        at_first = band[band[:, 0] == 10][:, 1]
        assert np.isclose(at_first.min(), 0)  # 0, 1, 2: mean 1, standard deviation 1
        assert np.isclose(at_first.max(), 2)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [
            "random (3)",
            "margin (3)",
        ]

    def test_one_run_and_another_metric(self):
        ax = plot(runs(1)[:1], "loss")
        assert ax.get_ylabel() == "loss"
        assert ax.lines[0].get_ydata().tolist() == [0, -1, -2, -3]

    def test_errors(self):
        with pytest.raises(ValueError, match="Got runs of none"):
            plot([])
        with pytest.raises(ValueError, match="must be of one task"):
            plot([Run(settings(task=t), (record(0),)) for t in "ab"])
