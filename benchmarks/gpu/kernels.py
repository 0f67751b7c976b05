"""Part 5: each kernel beside the reference and the device's own rates, at realistic shapes.

The floor of a case is the larger of its bytes over the measured copy bandwidth and its operations
over the measured rate of matrix products. `torch.compile` of the reference comes last.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from fastgradnorm_kernels import resolve_backend

from benchmarks.footprint import peak_bytes
from benchmarks.gpu.kernel_cases import Case, cases
from benchmarks.gpu.precision import IEEE, TF32
from benchmarks.gpu.rates import ceilings, measure
from benchmarks.gpu.report import Report

# Shares of the measured copy bandwidth, and times the reference, that were asked for.
COPY_SHARE = 0.8
TILED = ("ghost_sq_norm", "direct_sq_norm", "conv_sq_norm", "linear_head_scores")


def run(report: Report) -> None:
    """A row a case; then the compiled references, as long as there is time."""
    if report.wanted("rates"):
        with report.step("rates") as row:
            row |= ceilings(report.device)
    limits = next((row for row in report.document["rows"] if row["key"] == "rates"), {})
    found = ordered(cases(torch.device(report.device), report.dry))
    for case in found:
        if report.wanted(_key(case), 0 if report.dry else 2):
            with report.step(_key(case)) as row, torch.no_grad(), _mode(case).set():
                one_case(row, case, limits, report.device)
            _forget(report)
    for case in found[:1] if report.dry else found:
        key = f"compiled: {_key(case)}"
        if report.wanted(key, 0 if report.dry else 20):
            with report.step(key) as row, torch.no_grad(), _mode(case).set():
                row |= compiled(case, report)
            _forget(report)


def ordered(found: list[Case]) -> list[Case]:
    """Operations in turn, so that a cut leaves some of each."""
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in found:
        groups.setdefault((case.operation, _unit(case)), []).append(case)
    longest = max(map(len, groups.values()))
    return [group[i] for i in range(longest) for group in groups.values() if i < len(group)]


def _key(case: Case) -> str:
    return f"{case.operation}, {case.shape}, {_unit(case)}"


def _unit(case: Case) -> str:
    return "bfloat16" if case.dtype == torch.bfloat16 else case.precision


def _mode(case: Case) -> Any:
    return TF32 if case.precision == "tf32" else IEEE


def _forget(report: Report) -> None:
    if not report.dry:
        torch.cuda.empty_cache()


def one_case(
    row: dict[str, Any], case: Case, limits: dict[str, float], device: str
) -> dict[str, Any]:
    """Time, error, memory, and shares of what the device can do."""
    inputs, unit = case.make(), _unit(case)
    memory, products = case.bytes / limits["copy_bytes"], case.flops / limits[unit]
    row |= {
        "operation": case.operation,
        "shape": case.shape,
        "unit": unit,
        "floor_ms": 1e3 * max(memory, products),
        "bound": "memory" if memory > products else unit,
        "auto": resolve_backend("auto", torch.device(device), case.dtype),
    }
    row["kernel_ms"] = measure(lambda: case.kernel(*inputs), device, 0.05)
    row["of_floor"] = row["floor_ms"] / row["kernel_ms"]["median"]
    row["error"] = _error(case, inputs, _first(case.kernel(*inputs)))
    row["kernel_peak"] = peak_bytes(lambda: case.kernel(*inputs), device)
    row["reference_ms"] = measure(lambda: case.reference(*inputs), device, 0.05)
    row["speedup"] = row["reference_ms"]["median"] / row["kernel_ms"]["median"]
    row["reference_peak"] = peak_bytes(lambda: case.reference(*inputs), device)
    return row


def _first(outputs: Any) -> torch.Tensor:
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]


def _error(case: Case, inputs: tuple[Any, ...], output: torch.Tensor) -> float:
    """Largest relative error of the first two samples against the reference in float64."""
    batched = 1 if case.operation == "linear_head_scores" else 2  # weights have no samples

    def wide(index: int, x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        x = x[:2] if index < batched else x
        return x.double() if x.is_floating_point() else x

    exact = _first(case.reference(*(wide(i, x) for i, x in enumerate(inputs))))
    return float(((output[:2].double() - exact) / exact).abs().max())


def compiled(case: Case, report: Report) -> dict[str, Any]:
    """`torch.compile` of the reference."""
    inputs = case.make()
    torch.compiler.reset()
    faster: Callable[..., Any] = torch.compile(
        case.reference, backend="eager" if report.dry else "inductor"
    )
    start = time.monotonic()
    faster(*inputs)
    seconds = time.monotonic() - start
    took = measure(lambda: faster(*inputs), report.device, 0.05)
    return {"compile_seconds": seconds, "compiled_ms": took}


def table(document: dict[str, Any]) -> list[str]:
    """A line a case."""
    lines = [_rates(row) for row in document["rows"] if row["key"] == "rates"]
    for row in document["rows"]:
        if "kernel_ms" in row:
            lines.append(
                f"{row['operation']:>19} {row['shape']:<46} {row['unit']:>8}"
                f" {row['kernel_ms']['median']:9.3f} ms, {100 * row['of_floor']:5.1f} % of"
                f" {row['bound']}, {row.get('speedup', float('nan')):6.2f}x reference,"
                f" error {row.get('error', float('nan')):.0e}, auto: {row['auto']}"
            )
        elif "compiled_ms" in row:
            lines.append(f"{row['key']}: {row['compiled_ms']['median']:.3f} ms")
    return lines


def _rates(row: dict[str, Any]) -> str:
    if "copy_bytes" not in row:
        return "rates: not measured"
    flops = ", ".join(f"{k} {row[k] / 1e12:.1f} TFLOP/s" for k in ("bfloat16", "tf32", "ieee"))
    return f"copy {row['copy_bytes'] / 1e12:.2f} TB/s, {flops}"


def summary(document: dict[str, Any]) -> list[str]:
    """Heads against the copy rate, and where `"auto"` chooses what is slower."""
    rows = [row for row in document["rows"] if "speedup" in row]
    heads = [row for row in rows if row["operation"] == "head_scores"]
    low = [f"{r['shape']} {r['unit']}" for r in heads if r["of_floor"] < COPY_SHARE]
    slower = [r["key"] for r in rows if r["auto"] == "triton" and r["speedup"] < 1]
    faster = [r["key"] for r in rows if r["auto"] == "torch" and r["speedup"] > 1]
    products = sorted(r["of_floor"] for r in rows if r["operation"] in TILED)
    middle = products[len(products) // 2] if products else float("nan")
    return [
        f"{len(heads) - len(low)} of {len(heads)} heads at {COPY_SHARE:g} of the copy rate; below: "
        f"{low}",
        f"products: median {100 * middle:.0f} % of the matrix rate",
        f"auto takes a slower kernel: {slower}",
        f"auto leaves a faster kernel: {faster}",
    ]
