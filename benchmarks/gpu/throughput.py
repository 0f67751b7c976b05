"""Part 4: samples a second, beside what scores replace and the least they could cost.

Columns of a cell are timed in turn, round by round, to the device's end; ratios are of medians.
A column that fails tells why. The floor: a forward pass, plain pull-backs to the input, and norm
products at the rate measured at the start.
"""

import time
import traceback
from typing import Any

import torch

from benchmarks import timing
from benchmarks.cases import first
from benchmarks.footprint import peak_bytes
from benchmarks.gpu import baselines
from benchmarks.gpu.large_models import case
from benchmarks.gpu.precision import BF16, IEEE, TF32, Mode
from benchmarks.gpu.rates import ceilings
from benchmarks.gpu.reference import compared, scores
from benchmarks.gpu.report import Report
from benchmarks.gpu.timed import FEW, LONGEST, Column, makers
from benchmarks.setting import OURS, Setting

CLASSES = 10
ROUNDS = 7
CELLS: list[tuple[str, int, Mode]] = [
    ("resnet18", 1024, BF16),
    ("resnet18", 1024, IEEE),
    ("vit_b", 64, BF16),
    ("bert128", 64, BF16),
    ("resnet18", 1024, TF32),
    ("vit_b", 64, IEEE),
    ("bert128", 64, IEEE),
    ("resnet50", 64, BF16),
    ("resnet18", 256, BF16),
    ("resnet18", 64, BF16),
    ("bert512", 16, BF16),
    ("vit_b", 64, TF32),
    ("resnet50", 64, IEEE),
    ("resnet18", 64, IEEE),
    ("bert512", 16, IEEE),
    ("bert128", 64, TF32),
    ("resnet50", 64, TF32),
    ("resnet18", 256, IEEE),
]
_MADE: dict[tuple[str, int], Setting] = {}


def made(name: str, batch: int, report: Report) -> Setting:
    """Model and batch, made once: large ones take seconds."""
    if (name, batch) not in _MADE:
        samples = 2 if report.dry else batch
        _MADE[name, batch] = Setting(case(name, report.dry), CLASSES, samples, report.device)
    return _MADE[name, batch]


def run(report: Report) -> None:
    """Every cell, the most telling first."""
    if report.wanted("rates"):
        with report.step("rates") as row:
            row |= ceilings(report.device)
    rates = next((row for row in report.document["rows"] if row["key"] == "rates"), {})
    for name, batch, mode in [*CELLS[:4:2], ("bert128", 64, IEEE)] if report.dry else CELLS:
        key = f"{name}, batch {batch}, {mode.name}"
        if report.wanted(key, 0 if report.dry else 7):
            with report.step(key) as row, mode.set():
                setting = made(name, batch, report)
                row |= {"model": setting.case.title, "batch": setting.samples, "mode": mode.name}
                cell(row, setting, mode, rates, report)
        if not report.dry:
            torch.cuda.empty_cache()


def cell(
    row: dict[str, Any], setting: Setting, mode: Mode, rates: dict[str, Any], report: Report
) -> None:
    """Fills in one row: columns, ratios, errors, memory, and reasons for what is not there."""
    columns: dict[str, Column] = {}
    reasons: dict[str, str] = {}
    row |= {"columns": {}, "reasons": reasons}
    budget = 0.0 if report.dry else max(3.0, min(9.0, 0.07 * report.left))
    begun = time.monotonic()
    for name, make in makers(setting, mode).items():
        try:
            start = time.perf_counter()
            column = make()
            column.run()
            timing.wait(report.device)
            column.facts["first_seconds"] = time.perf_counter() - start
            column.clocks.append(timing.clocked(column.run, report.device))
            columns[name] = column
        except Exception as error:
            reasons[name] = f"{type(error).__name__}: {str(error)[:300]}\n" + "".join(
                traceback.format_tb(error.__traceback__)[-2:]
            )
        if time.monotonic() - begun > 3 * budget + 12:
            reasons["cut"] = f"no time for columns after {name}"
            break
    _rounds(columns, budget, report)
    row["columns"] = {name: _summary(column) for name, column in columns.items()}
    _compare(row, columns, setting, mode, rates)
    _check(row, setting, mode, report)
    for name in ("expected", "entropy"):
        if name in columns:
            row["columns"][name]["peak_bytes"] = peak_bytes(columns[name].run, report.device)


def _rounds(columns: dict[str, Column], budget: float, report: Report) -> None:
    """Every column once a round, in turn, as long as there is time."""
    start = time.monotonic()
    names = list(columns)
    if budget and names:
        for column in columns.values():
            if column.clocks[-1] <= LONGEST:
                column.clocks.clear()  # warm now
    for i in range(ROUNDS if budget else 0):
        if i and time.monotonic() - start > budget:
            break
        for name in names[i % len(names) :] + names[: i % len(names)]:
            column = columns[name]
            if column.clocks and column.clocks[-1] > LONGEST:
                continue  # one reading must do
            column.clocks.append(timing.clocked(column.run, report.device))


def _summary(column: Column) -> dict[str, Any]:
    low, high = (timing.quantile(column.clocks, q) for q in (0.2, 0.8))
    return {
        "samples": column.samples,
        "samples_per_second": 1 / column.each,
        "seconds_median": timing.quantile(column.clocks, 0.5),
        "seconds_p20": low,
        "seconds_p80": high,
        "rounds": len(column.clocks),
        **column.facts,
    }


def _compare(
    row: dict[str, Any],
    columns: dict[str, Column],
    setting: Setting,
    mode: Mode,
    rates: dict[str, Any],
) -> None:
    """Ratios of times a sample: above 1 is slower than the floor or a step, faster than others."""
    for score in OURS:
        if score not in columns:
            continue
        own, told = columns[score].each, row["columns"][score]
        for name in ("naive", "vmap(grad)", *(engine.name for engine in baselines.rivals())):
            if name in columns and score == "expected":
                told[f"faster than {name}"] = columns[name].each / own
        for name in ("training step", "forward"):
            if name in columns:
                told[f"times a {name}"] = own / columns[name].each
        if "forward" not in columns or "pulls" not in columns:
            continue
        try:
            products = baselines.norm_flops(setting, score) / rates[mode.rate]
        except Exception as error:
            row["reasons"][f"floor, {score}"] = repr(error)[:300]
            continue
        parts = [timing.quantile(columns[name].clocks, 0.5) for name in ("forward", "pulls")]
        least = baselines.floor_seconds(setting, score, *parts, products)
        told["floor_samples_per_second"] = setting.samples / least
        told["products_share_of_floor"] = setting.samples * products / least
        told["times the floor"] = own * setting.samples / least


def _check(row: dict[str, Any], setting: Setting, mode: Mode, report: Report) -> None:
    """Errors of the first scores against float64."""
    try:
        few = baselines.smaller(setting, min(FEW, setting.samples))
        how = {"head": None, "dense": False, "cudnn": True, "device": report.device}
        exact = scores(setting.model, first(setting.batch, 2), **how)
        for score in ("expected", "entropy"):
            found = few.stream(scheme=score, autocast=mode.autocast)()
            row["columns"].setdefault(score, {})["error"] = compared(found[:2], exact[score])[
                "error"
            ]
    except Exception as error:
        row["reasons"]["error"] = repr(error)[:400]


def table(document: dict[str, Any]) -> list[str]:
    """A block a cell."""
    lines = []
    for row in document["rows"]:
        if not row.get("columns"):
            continue
        lines.append(f"{row['key']}  ({row.get('took', 0):.0f} s)")
        for name, each in row["columns"].items():
            if "samples_per_second" not in each:
                continue
            ratios = ", ".join(
                f"{k} {each[k]:.2f}" for k in each if k.startswith(("faster than", "times "))
            )
            peak = f", {each['peak_bytes'] / 2**30:.1f} GiB" if "peak_bytes" in each else ""
            error = f", error {each['error']:.0e}" if "error" in each else ""
            error += f"  FEW: {each['few']}"[:160] if "few" in each else ""
            lines.append(
                f"    {name:<14} {each['samples_per_second']:10.1f}/s {ratios}{error}{peak}"
            )
        lines += [f"    {k}: {v.splitlines()[0][:150]}" for k, v in row["reasons"].items()]
    return lines


def summary(document: dict[str, Any]) -> list[str]:
    """Samples a second of the expected score."""
    lines = []
    for row in document["rows"]:
        own = row.get("columns", {}).get("expected", {})
        if "samples_per_second" in own:
            lines.append(
                f"{row['key']}: {own['samples_per_second']:.0f}/s, "
                f"{own.get('faster than naive', float('nan')):.0f}x naive, "
                f"{own.get('times the floor', float('nan')):.2f}x the floor"
            )
    return lines
