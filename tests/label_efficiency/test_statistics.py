"""Statistics of curves, against values worked out by hand."""

import math

import pytest

from benchmarks.label_efficiency import curves, regimes, statistics
from benchmarks.label_efficiency.curves import Curve, Results

SECONDS = {"train": 6.0, "score": 3.0, "select": 1.0, "evaluate": 90.0}


def curve(strategy, seed, values, labels=(10, 20, 40), seconds=SECONDS, start="s"):
    return Curve(strategy, seed, labels, {"accuracy": tuple(values)}, seconds, start, "")


RANDOM = [curve("random", 0, [0.1, 0.3, 0.5]), curve("random", 1, [0.2, 0.3, 0.6])]
BETTER = [curve("better", 0, [0.1, 0.5, 0.7]), curve("better", 1, [0.2, 0.7, 0.7])]
RESULTS = Results("toy", {}, (*RANDOM, *BETTER))


def test_interval_is_students():
    # Mean 2, standard deviation 1, t(0.975, 2) = 4.302653: 4.302653 / sqrt(3) = 2.484138.
    found = statistics.t_interval([1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(2)
    assert (found.low, found.high) == pytest.approx((-0.484138, 4.484138), abs=1e-6)
    assert found.sign == 0


def test_interval_of_one_value_is_unknown():
    found = statistics.t_interval([1.5])
    assert found.mean == 1.5
    assert math.isnan(found.low)
    assert found.sign == 0


@pytest.mark.parametrize("shift, sign", [(10, 1), (-10, -1)])
def test_interval_sign(shift, sign):
    assert statistics.t_interval([shift - 1, shift, shift + 1]).sign == sign


def test_area_is_the_mean_height():
    # (0.1 + 0.3) / 2 * 10 + (0.3 + 0.5) / 2 * 20 = 10 over 30 labels.
    assert statistics.area(RANDOM[0]) == pytest.approx(10 / 30)
    assert statistics.area(curve("flat", 0, [0.4, 0.4, 0.4])) == pytest.approx(0.4)
    assert statistics.area(curve("point", 0, [0.3], labels=(10,))) == 0.3


def test_scoring_share_leaves_evaluation_out():
    assert statistics.scoring_share(RANDOM[0]) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "target, labels",
    [(0.05, 10), (0.1, 10), (0.2, 15), (0.3, 20), (0.5, 30), (0.7, 40), (0.71, math.inf)],
)
def test_labels_to_reach(target, labels):
    assert statistics.labels_to_reach((10, 20, 40), (0.1, 0.3, 0.7), target) == pytest.approx(
        labels
    )


def test_labels_to_reach_takes_the_first_crossing():
    assert statistics.labels_to_reach((10, 20, 30, 40), (0, 0.4, 0.1, 0.5), 0.2) == pytest.approx(
        15
    )


def test_summary_pairs_by_seed():
    best, random = statistics.summarise(RESULTS)
    assert (best.strategy, random.strategy) == ("better", "random")
    assert best.means == pytest.approx((0.15, 0.6, 0.7))
    assert best.spreads == pytest.approx((0.1 / 2**0.5, 0.2 / 2**0.5, 0))
    # Differences at the end 0.2 and 0.1: half width 12.706205 * 0.05.
    gain = best.final_gain["random"]
    assert gain.mean == pytest.approx(0.15)
    assert gain.high == pytest.approx(0.15 + 12.706205 * 0.05)
    # Areas: (3 + 12) / 30 and (4.5 + 14) / 30, random's 10 / 30 and (2.5 + 9) / 30.
    assert best.area == pytest.approx((15 + 18.5) / 60)
    assert best.area_gain["random"].mean == pytest.approx((5 + 7) / 60)
    # Random ends at 0.55, on the first stretch of (0.15, 0.6): 8 / 9 of it.
    assert best.labels_to_random == pytest.approx(10 + 10 * 8 / 9)
    assert random.labels_to_random == pytest.approx(40)
    assert "entropy" not in best.final_gain
    assert "random" not in random.final_gain
    assert (best.seeds, best.seconds_score, best.share) == (2, 3.0, pytest.approx(0.3))


def test_only_common_seeds_are_paired():
    results = Results("toy", {}, (*RANDOM, curve("late", 1, [0.2, 0.4, 0.8])))
    late = next(s for s in statistics.summarise(results) if s.strategy == "late")
    assert late.final_gain["random"].mean == pytest.approx(0.2)


@pytest.mark.parametrize(
    "odd",
    [
        curve("odd", 0, [0.1, 1, 1], start="other"),
        curve("odd", 0, [0.1, 1, 1], labels=(10, 20, 30)),
    ],
    ids=["start", "labels"],
)
def test_curves_that_cannot_be_compared(odd):
    with pytest.raises(ValueError, match="must hold comparable curves"):
        statistics.summarise(Results("toy", {}, (*RANDOM, odd)))


def test_results_come_back_from_disk(tmp_path):
    path = curves.store(RESULTS, tmp_path)
    assert curves.load(path) == RESULTS
    assert curves.load_all(tmp_path) == [RESULTS]
    assert len(path.read_text().splitlines()) == len(RESULTS.curves) + 2


def test_holm_corrects_for_how_many_there_are():
    # Holm's own steps: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 raised to the one before it.
    found = statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert statistics.holm({"a": 0.7, "b": 0.8}) == {"a": 1, "b": 1}
    # Two of five that were planned: 5 x 0.01 and 4 x 0.02.
    assert statistics.holm({"a": 0.01, "b": 0.02}, 5) == pytest.approx({"a": 0.05, "b": 0.08})


def test_the_paired_test_is_students():
    # t = 2 / (1 / sqrt(3)) = 3.464102, two degrees of freedom: p = 1 - t / sqrt(t^2 + 2).
    assert statistics.paired_p([1.0, 2.0, 3.0]) == pytest.approx(1 - (12 / 14) ** 0.5)
    assert statistics.paired_p([-1.0, 1.0]) == pytest.approx(1)
    assert statistics.paired_p([3.0]) == 1
    assert statistics.paired_p([2.0, 2.0]) == 0
    assert statistics.paired_p([0.0, 0.0]) == 1


def test_tables_of_regimes(tmp_path):
    """Paired by seed, in points; seeds that only one has are left out of a difference."""
    facts = {
        "title": "A toy", "command": "toy", "pool": 1000, "core_seconds": 12.0,
        "plan": {"start": 10, "budget": 10, "cycles": 1, "subset": 50},
        "provenance": {"date": "2026-01-01T00:00:00", "commit": "abc", "device": "cpu",
                       "machine": {"processor": "P"}, "versions": {"torch": "2"}},
    }  # fmt: skip
    assert regimes.tables(tmp_path) is None
    rows = {
        "random": [0.5, 0.6, 0.7, 0.8, 0.9],
        regimes.DEFAULT: [0.6, 0.72, 0.8, 0.9],
        "margin": [0.62, 0.71, 0.79, 0.9],
        "entropy": [0.5, 0.5, 0.5, 0.5],
        "lcmd": [0.5, 0.5, 0.5],
    }
    made = [
        curve(name, seed, [value, value], labels=(10, 20))
        for name, values in rows.items()
        for seed, value in enumerate(values)
    ]
    curves.store(Results("toy", facts, tuple(made)), tmp_path)
    lines = regimes.tables(tmp_path).splitlines()
    assert "4 to 5 seeds" in lines[0]
    assert lines[2].startswith("| strategy | seeds | accuracy at 20 |")
    first = next(line for line in lines if line.startswith("| `random`"))
    # 10, 12, 10, 10: mean 10.5, deviation 1, half width 1.591; p = 0.00024, twice that.
    assert first.endswith("| 5 | 70.0 | 70.0 | - | **+10.5 [+8.9, +12.1]** | 0.00047 |")
    margin = next(line for line in lines if line.startswith("| `margin`"))
    assert margin.endswith("| +0.0 [-2.3, +2.3] | 1 |")
    entropy = next(line for line in lines if line.startswith("| `entropy`"))
    assert entropy.endswith("| - |")  # by the way: no test
    assert next(line for line in lines if "(default)" in line).endswith("| - | - |")
    assert not any("lcmd" in line for line in lines)  # of too few seeds
    assert "![toy: learning curves](pictures/experiments/toy.png)" in lines
    assert any("label-efficiency toy --regimes`" in line for line in lines)
    random = next(line for line in regimes.tables(tmp_path, 18).splitlines() if "`random`" in line)
    assert random.endswith("| 0.0043 |")  # 18 x 0.00024
