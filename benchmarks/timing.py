"""Times side by side, memory, and where a figure comes from."""

import datetime
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Before PyTorch is imported: its profiler announces every start and stop.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass
class Seconds:
    """Times of one function, round by round: on the clock, and of this process on all its cores."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Median, 20th and 80th percentile, and the median of processor time."""
        return {
            "seconds_median": quantile(self.wall, 0.5),
            "seconds_p20": quantile(self.wall, 0.2),
            "seconds_p80": quantile(self.wall, 0.8),
            "cpu_seconds_median": quantile(self.cpu, 0.5),
            "rounds": len(self.wall),
        }


def quantile(values: list[float], q: float) -> float:
    """The q-quantile, between neighbours linearly."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(q))


def side_by_side(
    runs: Mapping[str, Callable[[], Any]], rounds: int, budget: float, device: str = "cpu"
) -> dict[str, Seconds]:
    """Times every function once a round, in turn, so that a busy moment meets all of them alike.

    Args:
        runs: What to time, by name; each is run once before.
        rounds: How many rounds at most.
        budget: Seconds after which no further round begins; there are three at least.
        device: Whose work to wait for.
    """
    for run in runs.values():
        run()
    found = {name: Seconds() for name in runs}
    start = time.perf_counter()
    names = list(runs)
    for i in range(rounds):
        if i >= 3 and time.perf_counter() - start > budget:
            break
        for name in names[i % len(names) :] + names[: i % len(names)]:
            _wait(device)
            wall, cpu = time.perf_counter(), time.process_time()
            runs[name]()
            _wait(device)
            found[name].cpu.append(time.process_time() - cpu)
            found[name].wall.append(time.perf_counter() - wall)
    return found


def ratio(base: Seconds, other: Seconds, per: float = 1.0, clock: str = "wall") -> float:
    """Median over rounds of `base / other`, times `per`."""
    pairs = zip(getattr(base, clock), getattr(other, clock), strict=True)
    return per * quantile([a / b for a, b in pairs], 0.5)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


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
    with torch.profiler.profile(profile_memory=True) as profile:
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
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def matrix_rate(device: str = "cpu", size: int = 1024) -> float:
    """Floating-point operations a second of a float32 matrix product, the best of a few."""
    a = torch.randn(size, size, device=device)
    best = float("inf")
    for _ in range(20):
        _wait(device)
        start = time.perf_counter()
        a @ a
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Machine, versions, commit and date of a measurement."""
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_average": [round(x, 2) for x in os.getloadavg()],
            "system": platform.platform(),
        },
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "versions": {
            "python": platform.python_version(),
            **{name: installed(name) for name in ("torch", "numpy", "transformers", "triton")},
        },
    }
    if device.startswith("cuda"):
        facts["versions"]["cuda"] = torch.version.cuda
    return facts


def installed(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The checked-out commit, with a mark where source files differ from it."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", "../src", "../kernels")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + (" (changed)" if changed else "")


def store(name: str, results: Mapping[str, Any]) -> Path:
    """Writes `results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return path


def load(name: str) -> Any:
    """Reads `results/<name>.json`; None where it is not there."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None
