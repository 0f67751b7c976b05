"""What it takes to choose 100 of 100,000 images: reading and scoring, choosing, and memory.

    python -m benchmarks acquire

Each row is a process of its own. Images are drawn when they are read; resident memory is read at
each tenth of the pool; features, where a strategy looks at them, are what it grows by.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks import alone, footprint
from benchmarks.cases import CASES
from benchmarks.provenance import provenance, store
from fastgradnorm import acquire

SIZES = (10_000, 100_000)
STRATEGIES = ("top", "margin", "herding", "uherding", "coreset", "badge")
_CHOSEN, _LABELLED, _BATCH, _DISTINCT = 100, 200, 256, 1024


def choose(case: str, samples: int, strategy: str) -> dict[str, Any]:
    """Chooses from a pool that is made while it is read."""
    model, images = CASES[case].make(10, min(_DISTINCT, samples))
    acquire(model, [images[:8]], 2, strategy=strategy, progress=False)  # what is made once
    readings: list[int] = []
    read = 0

    def loader() -> Iterator[Tensor]:
        nonlocal read
        shift = images.new_tensor(range(_BATCH)).view(-1, *[1] * (images.dim() - 1)) / _BATCH
        for start in range(0, samples, _BATCH):
            if start >= len(readings) * samples / 10:
                readings.append(footprint.resident())
            size = min(_BATCH, samples - start)
            batch = images.roll(start // _BATCH, 0)[:size].clone()
            # No two alike: else coverage would have less to do than with photographs.
            batch += 0.3 * (start / samples) * shift[: len(batch)]
            read += len(batch)
            yield batch

    chosen = min(_CHOSEN, samples // 4)
    labelled = range(min(_LABELLED, samples // 4))
    start = time.perf_counter()
    made = acquire(model, loader(), chosen, labelled=labelled, strategy=strategy, progress=False)
    assert read == samples
    assert len({*made}) == chosen
    settled = readings[len(readings) // 10 :]
    return {
        "case": case,
        "strategy": strategy,
        "samples": samples,
        "chosen": chosen,
        "seconds": time.perf_counter() - start,
        **{f"seconds_{name}": value for name, value in made.provenance["seconds"].items()},
        "growth_bytes": max(settled) - settled[0],
        "resident_bytes": footprint.resident(),
    }


def tiny(folder: Path | None) -> int:
    """Of 40 images, in this process."""
    return main(folder, (40,), strategies=("top", "herding"), fresh=False)


def main(
    folder: Path | None,
    sizes: tuple[int, ...] = SIZES,
    case: str = "cnn6",
    strategies: tuple[str, ...] = STRATEGIES,
    fresh: bool = True,
) -> int:
    """Prints a table, and stores it; 1 if a row failed."""
    rows = []
    for size in sizes:
        for strategy in strategies:
            cell = {"case": case, "samples": size, "strategy": strategy}
            rows.append({**cell, **alone.call("benchmarks.acquire:choose", cell, fresh)})
            print(_line(rows[-1]), flush=True)
    if folder is not None:
        print(f"written: {store('acquire', {'provenance': provenance(), 'rows': rows}, folder)}")
    return int(any("reason" in row for row in rows))


def _line(row: dict[str, Any]) -> str:
    text = f"{row['strategy']:<10} {row['samples']:>7,}: "
    if "reason" in row:
        return text + str(row["reason"])
    return (
        f"{text}{row['seconds_score']:6.1f} s to score, {row['seconds_choose']:6.1f} s to choose "
        f"{row['chosen']}; {row['growth_bytes'] / 2**20:.0f} MiB more at the pool's end"
    )
