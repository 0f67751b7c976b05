"""What users call, on the device, beside the same calls on the CPU in float64.

Loaders with workers and pinned memory, losses, products, sketches, strategies, checkpoints, models
in other types and layouts, streams, threads, weights that change between calls.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import call_choices, call_states  # noqa: F401  they add theirs
from benchmarks.gpu.call_cases import CALLS, Call
from benchmarks.gpu.report import Report
from benchmarks.gpu.slices import share_out
from fastgradnorm import SlowPathWarning

SLICES = 4
DRY = ("workers and pinned memory", "a step between calls", "products")


def run(report: Report) -> None:
    """Every call, in a few processes."""
    share_out(report, "calls", [f"{i}/{SLICES}" for i in range(1 if report.dry else SLICES)])


def one(report: Report, only: str) -> None:
    """The calls of one slice."""
    index, count = map(int, only.split("/"))
    for name in DRY if report.dry else [*CALLS][index::count]:
        if report.wanted(name, 0 if report.dry else 2):
            with report.step(name) as row, warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                try:
                    _judge(row, CALLS[name], report.device)
                finally:
                    row["slow"] = [
                        str(w.message)[:300]
                        for w in told
                        if issubclass(w.category, SlowPathWarning)
                    ]
                    row["told"] = sorted({str(w.message)[:200] for w in told})


def _judge(row: dict[str, Any], call: Call, device: str) -> None:
    found = _seeded(call, device, torch.float32)
    exact = _seeded(call, "cpu", torch.float64)
    row["errors"] = {name: _off(found[name], exact[name]) for name in exact}
    row["error"] = max(row["errors"].values())
    row["ok"] = found.keys() == exact.keys() and row["error"] <= call.tolerance


def _seeded(call: Call, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(0)
    found = call.make(device, dtype)
    return {name: torch.as_tensor(each).detach().cpu().double() for name, each in found.items()}


def _off(actual: Tensor, exact: Tensor) -> float:
    """Relative to the largest number; infinite where shapes differ or numbers are not finite."""
    if actual.shape != exact.shape or not bool(actual.isfinite().all()):
        return float("inf")
    return float((actual - exact).abs().max() / exact.abs().max().clamp_min(1e-30))


def table(document: dict[str, Any]) -> list[str]:
    """A line for each that is not as it should be, or slow."""
    return [
        f"{row['key']}: {row.get('errors')} {row['slow']} {row['told']}"[:600]
        for row in document["rows"]
        if not row.get("ok") or row["slow"]
    ]


def summary(document: dict[str, Any]) -> list[str]:
    """How many are right."""
    rows = document["rows"]
    bad = [row["key"] for row in rows if not row.get("ok")]
    slow = [row["key"] for row in rows if row["slow"]]
    raised = list(document["errors"])
    return [f"{len(rows) - len(bad)} of {len(CALLS)} right; not: {bad}; slow: {slow}; {raised}"]
