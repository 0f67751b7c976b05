"""The head kernels by block sizes, beside what a copy of the same bytes takes.

The two ways to form a linear head's logits: tile by tile and twice, or some rows at a time by the
library's product, once.
"""

from collections.abc import Callable
from typing import Any

import torch
from fastgradnorm_kernels import logit_head, tiles
from torch import Tensor

from benchmarks.gpu import sweep
from benchmarks.gpu.kernel_cases import Case, cases
from benchmarks.gpu.precision import IEEE, TF32
from benchmarks.gpu.rates import ceilings, measure
from benchmarks.gpu.report import Report

SLICES = 12
_STREAMS = ((1, 8), (1, 16), (2, 8), (2, 16), (4, 8), (4, 16), (8, 8))  # warps, steps
_ROWS = (512, 2048)  # of a linear head at a time


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
    """A row a case and its candidates; then linear heads by rows."""
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
    for case in found:
        key = f"by rows, {sweep.titled(case)}"
        if case.operation == "linear_head_scores" and report.wanted(key, 0 if report.dry else 4):
            with report.step(key) as row, torch.no_grad(), _mode(case).set():
                _by_rows(row, case, report)
            if not report.dry:
                torch.cuda.empty_cache()


def _mode(case: Case) -> Any:
    return TF32 if case.precision == "tf32" else IEEE


def _copied(case: Case, report: Report) -> dict[str, float]:
    """What a copy of the logits takes: as many bytes again are written."""
    logits, _ = case.make()
    target = torch.empty_like(logits)
    took = measure(lambda: target.copy_(logits), report.device, 0.02)["median"]
    return {"copy_ms": took}


def _by_rows(row: dict[str, Any], case: Case, report: Report) -> None:
    features, weight, bias = inputs = case.make()
    q = features.float().square().sum(1) + 1
    right = case.kernel(*inputs)
    row["tile_by_tile_ms"] = measure(lambda: case.kernel(*inputs), report.device, 0.05)["median"]
    for name, product in _PRODUCTS.items():
        for rows in _ROWS:

            def call(product: Any = product, rows: int = rows) -> Tensor:
                parts = zip(features.split(rows), q.split(rows), strict=True)
                made = [logit_head.head_scores(product(h, weight, bias), s) for h, s in parts]
                return torch.cat([scores.expected for scores in made])

            try:
                found = call()
                row[f"{name}, {rows} differs"] = float(((found - right[0]) / right[0]).abs().max())
                row[f"{name}, {rows} ms"] = measure(call, report.device, 0.05)["median"]
            except Exception as problem:  # not every version takes every dtype
                row[f"{name}, {rows} ms"] = f"{type(problem).__name__}: {str(problem)[:120]}"


def _added(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return _wide(h, w).add_(b)


def _wide(h: Tensor, w: Tensor) -> Tensor:
    """The product in float32, whatever its operands are."""
    if h.dtype == torch.float32:
        return h @ w.mT
    return torch.mm(h, w.mT, out_dtype=torch.float32)


def _fused(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
    if h.dtype == torch.float32:
        return torch.addmm(b, h, w.mT)
    return torch.addmm(b.float(), h, w.mT, out_dtype=torch.float32)


_PRODUCTS: dict[str, Callable[..., Tensor]] = {"added": _added, "fused": _fused}


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
        elif "tile_by_tile_ms" in row:
            lines.append(f"{row['key']}: " + str({k: v for k, v in row.items() if k != "key"}))
    return lines


def summary(document: dict[str, Any]) -> list[str]:
    """The best blocks of each case."""
    rows = [row for row in document["rows"] if "as_it_is_ms" in row]
    return [f"{r['key']}: {r['as_it_is_ms']:.4f} -> {r['best_ms']:.4f} {r['best']}" for r in rows]
