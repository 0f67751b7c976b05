"""Memory of this process and of its tensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def tensor_bytes(model: torch.nn.Module) -> int:
    """Bytes of a model's parameters."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def resident() -> int:
    """Resident memory of this process now, in bytes (Linux)."""
    return _status("VmRSS")


def available() -> int:
    """Memory the machine could still give, in bytes (Linux)."""
    return _field(Path("/proc/meminfo"), "MemAvailable")


def peak_bytes(run: Callable[[], Any], device: str = "cpu") -> int:
    """Most bytes of tensors that `run` holds at a time, on top of those there before.

    On the CPU the profiler's record of allocations, which leaves out the scratch of oneDNN and MKL;
    on a GPU the allocator's own count.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    # Events are kept, as there is one cycle alone: PyTorch 2.11 warns where they are not.
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        run()
    records = profile.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in records if e.name() == "[memory]"]
    now = peak = 0
    for _, change in sorted(changes, key=lambda c: c[0]):
        now += change
        peak = max(peak, now)
    return peak


def resident_peak(run: Callable[[], Any]) -> int:
    """How far the process's resident memory rises while `run` runs, in bytes (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    return _field(Path("/proc/self/status"), key)


def _field(path: Path, key: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{path} has no {key}")
