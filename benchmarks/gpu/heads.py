"""The head kernels by block sizes, beside what a copy of the same bytes takes."""

from typing import Any

import torch
from fastgradnorm_kernels import tiles

from benchmarks.gpu import sweep
from benchmarks.gpu.kernel_cases import Case, cases
from benchmarks.gpu.rates import ceilings, measure
from benchmarks.gpu.report import Report

SLICES = 12
_STREAMS = ((1, 8), (1, 16), (2, 8), (2, 16), (4, 8), (4, 16), (8, 8))  # warps, steps


def candidates(case: Case, device: torch.device) -> list[sweep.Blocks]:
    """Kernels and block sizes to try for a row of logits."""
    if case.operation != "head_scores":
        return []
    classes = int(case.shape.split("C=")[1])
    width = max(16, 1 << (classes - 1).bit_length())
    tiled = [
        {"BLOCK_N": rows, "BLOCK_C": width, "num_warps": warps}
        for warps in (1, 2, 4, 8, 16)
        for rows in (1, 2, 4, 8, 16, 32, 64)
        if 512 <= rows * width / warps <= 2048
    ]
    if classes <= 64:
        threads = (64, 128, 256)
        own = [{"CLASSES": classes, "BLOCK_N": n, "num_warps": n // 32} for n in threads]
        return own + tiled[:4]
    streams = [{"W": 128 * w, "STEPS": steps, "num_warps": w} for w, steps in _STREAMS]
    if classes <= 2048:
        return tiled + streams[:2]
    return streams + tiled


def warm(report: Report, index: int) -> None:
    """Compiles a share of the candidates."""
    sweep.warm(report, index, SLICES, candidates)


def run(report: Report) -> None:
    """A row a case and its candidates."""
    if report.wanted("rates"):
        with report.step("rates") as row:
            row |= ceilings(report.device)
            row["gpu"] = "none" if report.dry else tiles.gpu(torch.device("cuda", 0))[0]
    sweep.every(report, candidates)
    rate = next((r["copy_bytes"] for r in report.document["rows"] if "copy_bytes" in r), None)
    found = cases(torch.device(report.device), report.dry)
    for case in found if rate else []:
        key = f"copied, {sweep.titled(case)}"
        if case.operation == "head_scores" and report.wanted(key, 0 if report.dry else 1):
            with report.step(key) as row:
                row |= _copied(case, report)


def _copied(case: Case, report: Report) -> dict[str, float]:
    """What a copy of the logits takes: as many bytes again are written."""
    logits, _ = case.make()
    target = torch.empty_like(logits)
    took = measure(lambda: target.copy_(logits), report.device, 0.02)["median"]
    return {"copy_ms": took}


def table(document: dict[str, Any]) -> list[str]:
    """A line a case: the best, what is, and what a copy takes; then every candidate's time."""
    copies = {row["key"][8:]: row["copy_ms"] for row in document["rows"] if "copy_ms" in row}
    lines = []
    for row in document["rows"]:
        if "as_it_is_ms" in row:
            copy = copies.get(row["key"], float("nan")) / 2
            now, best = row["as_it_is_ms"], row["best_ms"]
            lines.append(
                f"{row['key']}: {now:.4f} ms, best {best:.4f} ms {row['best']}, half a copy "
                f"{copy:.4f} ms: {100 * copy / now:.0f} and {100 * copy / best:.0f} %"
            )
            times = sorted(row["times"].items(), key=lambda pair: pair[1])
            lines += [f"      {took:.4f} {blocks}" for blocks, took in times[:6]]
            lines += [f"      FAILED {k}: {why}" for k, why in list(row["failed"].items())[:3]]
    return lines


def summary(document: dict[str, Any]) -> list[str]:
    """The best blocks of each case."""
    rows = [row for row in document["rows"] if "as_it_is_ms" in row]
    return [f"{r['key']}: {r['as_it_is_ms']:.4f} -> {r['best_ms']:.4f} {r['best']}" for r in rows]
