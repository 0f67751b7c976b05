"""What the device itself can do: bytes a second of a copy, operations a second of products."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.precision import BF16, IEEE, TF32


def measure(call: Callable[[], Any], device: str, seconds: float = 0.1) -> dict[str, float]:
    """Median, 20th and 80th percentile in milliseconds, by the device's own clock.

    The cache is flushed before each run, and the host is ahead of the device.
    """
    if device != "cuda":
        return _on_the_host(call)
    call()
    torch.cuda.synchronize()
    cache = torch.empty(1 << 28, dtype=torch.int8, device=device)
    begin, end = _event(), _event()
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    count = int(max(3, min(50, seconds / max(1e-5, 1e-3 * begin.elapsed_time(end)))))
    pairs = [(_event(), _event()) for _ in range(count)]
    for begin, end in pairs:
        cache.zero_()
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return _quantiles([begin.elapsed_time(end) for begin, end in pairs])


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


def _on_the_host(call: Callable[[], Any]) -> dict[str, float]:
    times = []
    for _ in range(2):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return _quantiles(times)


def _quantiles(times: list[float]) -> dict[str, float]:
    times = sorted(times)
    low, high = times[len(times) // 5], times[min(len(times) - 1, 4 * len(times) // 5)]
    return {"median": statistics.median(times), "p20": low, "p80": high}


def ceilings(device: str) -> dict[str, float]:
    """Bytes a second of a large copy, operations a second of large products in each precision."""
    length, side = (1 << 28, 8192) if device == "cuda" else (1 << 12, 32)
    source = torch.randn(length, device=device)
    target = torch.empty_like(source)
    copy = measure(lambda: target.copy_(source), device)["median"]
    found = {"copy_bytes": 8 * length / (1e-3 * copy)}
    for mode in (BF16, TF32, IEEE):
        a = torch.randn(side, side, device=device).to(mode.autocast or torch.float32)
        with mode.set():
            took = measure(lambda a=a: a @ a, device)["median"]
        found[mode.rate] = 2 * side**3 / (1e-3 * took)
    return found
