"""What verification costs of scoring a pool: its seconds stand in the provenance of the scores.

Here they are seconds of the processor, so that other jobs of the machine do not count.
"""

import os
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from benchmarks.cases import CASES
from benchmarks.provenance import load, provenance, store
from fastgradnorm import GradNormScorer
from fastgradnorm._witness import witness

SIZES = (500, 10_000)
WAYS: dict[str, dict[str, Any]] = {
    "expected": {"scheme": "expected"},
    "entropy": {"scheme": "entropy"},
    "last layer": {"scheme": "expected", "params": "last_layer"},
}
_BATCH, _DISTINCT = 64, 1024  # images that are drawn; larger pools repeat them
_RUNS, _SMALL = 3, 1000  # of each pool up to so many samples; of larger ones one


def main(folder: Path | None, sizes: tuple[int, ...] = SIZES, case: str = "resnet18") -> int:
    """Scores pools of CIFAR-sized images by each way; prints a table, and stores each row.

    What an earlier run has stored of the same commit is not measured again.
    """
    made = provenance()
    rows = _known(folder, made["commit"])
    wanted = [(size, way) for size in sizes for way in reversed(WAYS)]  # the shortest first
    for size, way in wanted:
        if (case, way, size) not in rows:
            row = _row(case, way, size) | {"commit": made["commit"], "load": os.getloadavg()[1]}
            rows[case, way, size] = row
        print(_told(rows[case, way, size]), flush=True)
        if folder is not None:
            told = {"provenance": made, "seconds": "of the processor", "rows": [*rows.values()]}
            store("verification", told, folder)
    return 0


def _known(folder: Path | None, commit: str | None) -> dict[tuple[str, str, int], dict[str, Any]]:
    stored = None if folder is None else load("verification", folder)
    if stored is None or commit is None or "changed" in commit:
        return {}
    rows = [row for row in stored["rows"] if row.get("commit") == commit]
    return {(row["model"], row["way"], row["samples"]): row for row in rows}


def _told(row: dict[str, Any]) -> str:
    return (
        f"{row['way']:<10} {row['samples']:>6} samples: {row['seconds']:.1f} s, of which "
        f"verification {row['verification_seconds']:.2f} s, {100 * row['share']:.1f} %; "
        f"{row['rows']} rows, {row['gradients_of']} samples' gradients"
    )


def _row(case: str, way: str, size: int) -> dict[str, Any]:
    model, images = CASES[case].make(10, min(size, _DISTINCT))
    batches = images.split(_BATCH)
    full, rest = divmod(size, _BATCH)
    loader = [batches[i % len(batches)][:_BATCH] for i in range(full)]
    loader += [batches[0][:rest]] if rest else []
    scorer = GradNormScorer(model, progress=False, **WAYS[way])
    scorer.score([batches[0]])  # what is made once in a process
    runs = [_timed(scorer, loader) for _ in range(_RUNS if size <= _SMALL else 1)]
    verified = runs[0][2]
    return {
        "model": case,
        "way": way,
        "samples": size,
        "runs": len(runs),
        "seconds": statistics.median(whole for whole, _, _ in runs),
        "verification_seconds": statistics.median(part for _, part, _ in runs),
        "share": statistics.median(part / (whole - part) for whole, part, _ in runs),
        "rows": verified["rows"],
        "gradients_of": verified["samples"],
    }


def _timed(scorer: GradNormScorer, loader: list[Any]) -> tuple[float, float, dict[str, Any]]:
    """Seconds of the processor for all, for verification, and what was verified."""
    processor = SimpleNamespace(perf_counter=time.process_time)
    with mock.patch.object(witness, "time", processor):
        start = time.process_time()
        verified = scorer.score(loader).provenance["verified"]
        return time.process_time() - start, verified["seconds"], verified
