"""Part 3: what one pass starts, how long the device works for it, and where it waits.

Operators are what PyTorch dispatches to the device, kernels what the profiler saw run there: one
operator may start several kernels, or none. The device is idle for what is left of the time of a
pass that nobody watches.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import timing
from benchmarks.gpu import precision
from benchmarks.gpu.large_models import case
from benchmarks.gpu.precision import Mode
from benchmarks.gpu.report import Report
from benchmarks.gpu.syncs import places
from benchmarks.setting import Setting
from fastgradnorm._engine.replay import as_they_are

CLASSES = 10
CELLS: list[tuple[str, int, str, Mode]] = [
    ("resnet18", 1024, "auto", precision.BF16),
    ("resnet18", 64, "auto", precision.FLOAT32),
    ("resnet18", 64, "auto", precision.BF16),
    ("vit_b", 8, "auto", precision.BF16),
    ("vit_b", 8, "auto", precision.FLOAT32),
    ("bert128", 8, "auto", precision.BF16),
    ("bert128", 8, "auto", precision.FLOAT32),
    ("resnet18", 64, "triton", precision.FLOAT32),
    ("vit_b", 8, "triton", precision.FLOAT32),
    ("resnet18", 64, "auto", precision.TF32),
]
KEPT = 40  # kernels by time in the file; the table shows fewer
SHOWN = 15


def run(report: Report) -> None:
    """One row a model and mode."""
    for name, batch, backend, mode in CELLS[:3] if report.dry else CELLS:
        key = f"{name}, batch {batch}, {backend}, {mode.name}"
        if report.wanted(key, 0 if report.dry else 8):
            with report.step(key) as row, mode.set():
                setting = Setting(
                    case(name, report.dry), CLASSES, 2 if report.dry else batch, report.device
                )
                options = {"backend": backend, "autocast": mode.autocast}
                row |= {"model": name, "batch": setting.samples, "mode": mode.name}
                one_pass(row, setting.stream(**options), report)
        if not report.dry:
            torch.cuda.empty_cache()


def one_pass(row: dict[str, Any], run: Callable[[], Any], report: Report) -> None:
    """Fills in the row of one pass, most telling first."""
    start = time.perf_counter()
    run()
    timing.wait(report.device)
    row["first_seconds"] = time.perf_counter() - start
    clocks = [timing.clocked(run, report.device) for _ in range(1 if report.dry else 5)]
    row["seconds"] = timing.quantile(clocks[1:] or clocks, 0.5)
    row |= profiled(run, report.device)
    row["idle_share"] = max(0.0, 1 - row["busy_seconds"] / row["seconds"])
    report.save()
    with as_they_are():
        row["places"] = places(run, cuda=not report.dry)
    row["syncs"] = sum(row["places"].values())
    operators = Operators()
    with operators, as_they_are():
        run()
    row["operators"] = operators.total
    row["operators_by_name"] = dict(operators.counts.most_common(KEPT))


class Operators(TorchDispatchMode):
    """Counts what is dispatched below autograd and functorch."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


def profiled(run: Callable[[], Any], device: str) -> dict[str, Any]:
    """Kernels by time, launches, copies and waits of one pass, and how long the device was busy.

    Without a device, operators stand for kernels.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities):
            timing.wait(device)  # starting the tracer takes long once
    with torch.profiler.profile(activities=activities) as profile:
        run()
        timing.wait(device)
    events = profile.profiler.kineto_results.events()
    wanted = torch.autograd.DeviceType.CUDA if device == "cuda" else torch.autograd.DeviceType.CPU
    spans, by_name, host = [], defaultdict(lambda: [0, 0]), Counter[str]()
    for event in events:
        name, begin, length = event.name(), event.start_ns(), event.duration_ns()
        if event.is_user_annotation() or name == "[memory]":
            continue
        if event.device_type() == wanted:
            spans.append((begin, begin + length))
            by_name[name][0] += 1
            by_name[name][1] += length
        elif name.startswith(("cuda", "cu")):
            host[name] += 1
    kernels = sorted(by_name.items(), key=lambda item: -item[1][1])
    return {
        "kernels": len(spans),
        "kernel_names": len(kernels),
        "busy_seconds": 1e-9 * _union(spans),
        "host_calls": dict(host.most_common(20)),
        "top": [
            {"name": name[:240], "count": count, "ms": 1e-6 * length}
            for name, (count, length) in kernels[:KEPT]
        ],
    }


def _union(spans: list[tuple[int, int]]) -> int:
    """Length of what intervals cover together."""
    total, reached = 0, 0
    for begin, end in sorted(spans):
        total += max(0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def table(document: dict[str, Any]) -> list[str]:
    """A line a pass, and the kernels that take most of it."""
    lines = []
    for row in document["rows"]:
        if "kernels" not in row:
            continue
        lines.append(
            f"{row['key']}: {1e3 * row['seconds']:.1f} ms (first {row['first_seconds']:.1f} s), "
            f"device busy {1e3 * row['busy_seconds']:.1f} ms, "
            f"idle {100 * row['idle_share']:.0f} %, {row['kernels']} kernels, "
            f"{row.get('operators')} operators, {row.get('syncs')} syncs"
        )
        busy = max(1e-9, 1e3 * row["busy_seconds"])
        lines += [
            f"    {100 * each['ms'] / busy:5.1f} % {each['ms']:8.2f} ms {each['count']:5d}x "
            f"{each['name'][:100]}"
            for each in row["top"][:SHOWN]
        ]
        lines += [
            f"    sync {n}x {place[:160]}" for place, n in [*row.get("places", {}).items()][:4]
        ]
    return lines


def summary(document: dict[str, Any]) -> list[str]:
    """Idle share and counts."""
    return [
        f"{row['key']}: idle {100 * row['idle_share']:.0f} %, {row['kernels']} kernels, "
        f"{row.get('operators')} operators, {row.get('syncs')} syncs"
        for row in document["rows"]
        if "kernels" in row
    ]
