"""Rows of one case: every column timed in one process, in turn, round by round."""

from typing import Any

from benchmarks import floor, timing
from benchmarks.columns import Columns
from benchmarks.footprint import peak_bytes
from benchmarks.provenance import provenance
from benchmarks.setting import OURS, Setting

Row = dict[str, Any]
MOST_PROFILED = 3.0  # seconds a run whose memory is measured too


def measure(setting: Setting, columns: Columns, rounds: int, budget: float) -> list[Row]:
    """One row a column and a floor.

    Ratios are medians over rounds of the ratio within a round.
    """
    found = columns.found
    sizes = (512, 1024, 2048) if budget > 1 else (64,)
    before = timing.matrix_rates(setting.device, sizes)
    runs = {name: column.run for name, column in found.items()}
    usual = [name for name, column in found.items() if not column.kept]
    times = timing.side_by_side(runs, rounds, budget, setting.device, usual)
    after = timing.matrix_rates(setting.device, sizes)
    rates = {name: max(rate, after[name]) for name, rate in before.items()}
    floors = floor.floors(setting, times, max(rates.values()))
    rows = []
    for name, column in found.items():
        if name in (floor.FORWARD, floor.PULLS):
            continue
        seconds = times[name]
        row: Row = {"column": name, "samples": column.samples, **seconds.summary()}
        row["samples_per_second"] = column.samples / row["seconds_median"]
        row |= _compared(name, columns, times, floors)
        row["error"] = column.error
        row |= column.facts
        if column.memory and row["seconds_median"] < MOST_PROFILED:
            row["peak_bytes"] = peak_bytes(column.run, setting.device)
        rows.append(row)
    for name, least in floors.items():
        rows.append({"column": f"floor, {name}", "samples": 1, **least.summary()})
        rows[-1]["samples_per_second"] = 1 / rows[-1]["seconds_median"]
    rows += [{"column": name, "reason": reason} for name, reason in columns.refused.items()]
    return [{**_facts(setting, rates), **row} for row in rows]


def _compared(
    name: str,
    columns: Columns,
    times: dict[str, timing.Seconds],
    floors: dict[str, timing.Seconds],
) -> Row:
    """How many times the loop's, the floor's and ours the time of a sample is."""
    found, seconds, row = columns.found, times[name], Row()
    each = found[name].samples

    def over(other: str, clock: str = "wall") -> float:
        return timing.ratio(seconds, times[other], found[other].samples / each, clock)

    if "naive" in times:
        share = each / found["naive"].samples
        row["speedup_over_naive"] = timing.ratio(times["naive"], seconds, share)
        row["cpu_speedup_over_naive"] = timing.ratio(times["naive"], seconds, share, "cpu")
    score = found[name].score
    if score in times:
        row["times_ours"] = over(score)
    if name in OURS:
        own = "naive" if name == "expected" else f"naive {name}"
        if own in times:
            row["speedup_over_own_naive"] = timing.ratio(
                times[own], seconds, each / found[own].samples
            )
        row["over_floor"] = timing.ratio(seconds, floors[name], 1 / each)
        row["cpu_over_floor"] = timing.ratio(seconds, floors[name], 1 / each, "cpu")
        row |= {
            key: over(other)
            for key, other in (
                ("over_training_step", "training step"),
                ("over_forward", "forward only"),
            )
            if other in times
        }
    return row


def _facts(setting: Setting, rates: dict[str, float]) -> Row:
    source = provenance(setting.device)
    return {
        "case": setting.case.name,
        "title": setting.case.title,
        "classes": setting.classes,
        "matrix_rate": max(rates.values()),
        "matrix_rate_of": max(rates, key=lambda name: rates[name]),
        "device": source["device"],
        "processor": source["machine"]["processor"],
        "threads": source["machine"]["threads"],
        "torch": source["versions"]["torch"],
        "commit": source["commit"],
        "date": source["date"],
    }
