"""Times side by side, and the rate of matrix products they are held against."""

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.usual_memory import usual_memory

# What is faster is run several times for one reading: clocks and schedulers are noisy below.
SHORTEST = 0.05


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
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    budget: float,
    device: str = "cpu",
    usual: Collection[str] = (),
) -> dict[str, Seconds]:
    """Times every function once a round, in turn, so that a busy moment meets all of them alike.

    Args:
        runs: What to time, by name; each is run once before.
        rounds: How many rounds at most.
        budget: Seconds after which no further round begins; there are three at least, and with
            none to spare a reading is a single run.
        device: Whose work to wait for.
        usual: Functions that run with the C library's usual memory settings, as in a process of
            their own. While a scorer of ours is at work, freed memory is kept, and others in the
            process would profit from it. All functions run once more before each reading then.
    """
    shortest = min(SHORTEST, budget)
    repeats = {name: _repeats(shortest, clocked(run, device)) for name, run in runs.items()}
    found = {name: Seconds() for name in runs}
    start = time.perf_counter()
    names = list(runs)
    for i in range(rounds):
        if i >= 3 and time.perf_counter() - start > budget:
            break
        for name in names[i % len(names) :] + names[: i % len(names)]:
            with usual_memory() if name in usual else contextlib.nullcontext():
                if usual:
                    runs[name]()  # what the one before left of the memory is nobody's fault
                wait(device)
                wall, cpu = time.perf_counter(), time.process_time()
                for _ in range(repeats[name]):
                    runs[name]()
                wait(device)
                found[name].cpu.append((time.process_time() - cpu) / repeats[name])
                found[name].wall.append((time.perf_counter() - wall) / repeats[name])
    return found


def once(run: Callable[[], Any], device: str = "cpu") -> float:
    """Seconds of the second of two runs."""
    run()
    return clocked(run, device)


def clocked(run: Callable[[], Any], device: str = "cpu") -> float:
    """Seconds of one run."""
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


def _repeats(shortest: float, seconds: float) -> int:
    return max(1, min(100, round(shortest / max(seconds, 1e-6))))


def ratio(base: Seconds, other: Seconds, per: float = 1.0, clock: str = "wall") -> float:
    """Median over rounds of `base / other`, times `per`."""
    pairs = zip(getattr(base, clock), getattr(other, clock), strict=True)
    return per * quantile([a / b for a, b in pairs], 0.5)


def wait(device: str) -> None:
    """Until a GPU has done what it was told to."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def matrix_rates(
    device: str = "cpu", sizes: tuple[int, ...] = (512, 1024, 2048)
) -> dict[str, float]:
    """Floating-point operations a second of float32 products, the best of a few, by kind.

    PyTorch has several libraries for them, and the fastest is not always the one behind `@`: plain
    and batched products, and convolutions (1x1 is a matrix product, 3x3 in operations of the direct
    form), which on a CPU go through oneDNN.
    """
    found: dict[str, float] = {}
    for size in sizes:
        a, b = torch.randn(2, size, size, device=device)
        found[f"product of {size}"] = _rate(lambda a=a, b=b: a @ b, 2 * size**3, device)
    size, image = min(1024, max(sizes)), 16
    a, b = torch.randn(2, 8, size // 2, size // 2, device=device)
    found["batched product"] = _rate(lambda: torch.bmm(a, b), 2 * 8 * (size // 2) ** 3, device)
    for width in (1, 3):
        channels = size if width == 1 else size // 4
        x = torch.randn(4, channels, image, image, device=device)
        weight = torch.randn(channels, channels, width, width, device=device)
        flops = 2 * 4 * (channels * width * image) ** 2
        run = lambda x=x, w=weight, p=width // 2: F.conv2d(x, w, padding=p)  # noqa: E731
        found[f"convolution {width}x{width}"] = _rate(run, flops, device)
    return found


def _rate(run: Callable[[], Any], flops: int, device: str) -> float:
    with torch.no_grad():
        best = once(run, device)
        for _ in range(max(3, min(20, int(0.3 / best)))):
            best = min(best, clocked(run, device))
    return flops / best
