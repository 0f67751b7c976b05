"""How cost grows: with the pool, with the classes of a head, with the batch.

    python -m benchmarks scaling

Pools are scored in processes of their own, whose resident memory is read while they run. No cell
takes longer than a cap: a pool that would is stopped there, and its row says how far it came.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor, nn

from benchmarks import alone, footprint, plots, timing
from benchmarks.cases import SMALL, TINY, Case
from benchmarks.provenance import RESULTS, provenance, store
from benchmarks.setting import OURS, Setting
from fastgradnorm import GradNormScorer

BATCH = 256  # of a pool
FEATURES = 256  # of a head
ELEMENTS = 1 << 24  # logits of a head at a time
READ_EVERY = 0.2  # seconds between two readings of memory
MOST_READINGS = 100  # that are stored, evenly taken


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    case: Case
    pools: Sequence[int]
    last_layer_pools: Sequence[int]
    classes: Sequence[int]
    batches: Sequence[int]
    cap: float  # seconds a pool
    seconds: float  # of timing a cell of the other parts


FULL = Sizes(
    case=SMALL,
    pools=(100, 1_000, 10_000, 100_000),
    last_layer_pools=(100, 1_000, 10_000, 100_000, 1_000_000),
    classes=(2, 10, 100, 1_000, 10_000, 100_000),
    batches=(1, 2, 8, 32, 128, 512),
    cap=150.0,
    seconds=1.0,
)
LEAST = Sizes(TINY, (8, 20), (20,), (2, 10), (1, 3), cap=5.0, seconds=0.0)


def pool(case: str, score: str, samples: int, batch: int, cap: float) -> dict[str, Any]:
    """Scores a pool that is made while it is read: time, and resident memory meanwhile."""
    model, data = (SMALL if case == SMALL.name else TINY).make(10, batch)
    options: dict[str, Any] = OURS[score]
    scorer = GradNormScorer(model, **options, progress=False)
    scorer.score_batch(data)  # libraries have their memory
    readings: list[tuple[float, int, int]] = []  # seconds, samples done, bytes
    start = time.perf_counter()

    def loader() -> Iterator[Tensor]:
        for done in range(0, samples, batch):
            now = time.perf_counter() - start
            if not readings or now - readings[-1][0] >= READ_EVERY:
                readings.append((now, done, footprint.resident()))
            if now > cap:
                return
            yield data[: samples - done].clone()

    scores = scorer.score(loader()).values
    seconds = time.perf_counter() - start
    readings.append((seconds, len(scores), footprint.resident()))
    settled = [b for _, done, b in readings if done >= len(scores) / 10]
    return {
        "samples": samples,
        "done": len(scores),
        "seconds": seconds,
        "seconds_per_sample": seconds / len(scores),
        "growth_bytes": max(settled) - settled[0],  # after the first tenth
        "readings": readings[:: max(1, len(readings) // MOST_READINGS)] + readings[-1:],
    }


def head(kind: str, classes: int, budget: float) -> dict[str, Any]:
    """Last-layer scores for many classes: from logits, from features, through the scorer."""
    torch.manual_seed(0)
    samples = max(8, min(4096, ELEMENTS // classes))
    features = torch.randn(samples, FEATURES)
    layer = nn.Linear(FEATURES, classes)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    run: Callable[[], Any]
    if kind == "head_scores":
        z = features @ weight.mT + bias
        q = features.square().sum(1) + 1
        run = lambda: kernels.head_scores(z, q)  # noqa: E731
    elif kind == "linear_head_scores":
        run = lambda: kernels.linear_head_scores(features, weight, bias)  # noqa: E731
    else:
        scorer = GradNormScorer(layer, params="last_layer", latency=0, verify=False, progress=False)
        scores = scorer.stream(itertools.repeat(features))
        run = lambda: next(scores)  # noqa: E731
    return {"classes": classes, "samples": samples, **_cost(run, samples, budget)}


def batch(setting: Setting, score: str, budget: float) -> dict[str, Any]:
    """A score of one batch."""
    run = setting.stream(**OURS[score])
    return {"batch": setting.samples, **_cost(run, setting.samples, budget)}


def _cost(run: Callable[[], Any], samples: int, budget: float) -> dict[str, Any]:
    seconds = timing.side_by_side({"run": run}, rounds=9, budget=budget)["run"].summary()
    per_sample = seconds["seconds_median"] / samples
    return {**seconds, "seconds_per_sample": per_sample, "peak_bytes": footprint.peak_bytes(run)}


def main(sizes: Sizes = FULL, folder: Path | None = RESULTS, fresh: bool = True) -> int:
    """Measures, prints and stores; 1 if a pool failed."""
    rows: list[dict[str, Any]] = []

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        print(_line(row), flush=True)

    for score, pools in (("expected", sizes.pools), ("last layer", sizes.last_layer_pools)):
        for samples in pools:
            cell = {"case": sizes.case.name, "score": score, "samples": samples}
            cell |= {"batch": min(BATCH, samples), "cap": sizes.cap}
            add({"part": "pool", **cell, **alone.call("benchmarks.scaling:pool", cell, fresh)})
    for kind in ("head_scores", "linear_head_scores", "last layer"):
        for classes in sizes.classes:
            add({"part": "classes", "score": kind, **head(kind, classes, sizes.seconds)})
    for score in OURS:
        for samples in sizes.batches:
            setting = Setting(sizes.case, 10, samples)
            add({"part": "batch", "score": score, **batch(setting, score, sizes.seconds)})
    if folder is not None:
        results = {"provenance": provenance(), "title": sizes.case.title, "rows": rows}
        path = store("scaling", results, folder)
        print(f"written: {path}, {plots.scaling(results, path.with_suffix('.png'))}")
    return int(any("reason" in row for row in rows))


def _line(row: dict[str, Any]) -> str:
    key = {"pool": "samples", "classes": "classes", "batch": "batch"}[row["part"]]
    text = f"{row['part']:8s}{row['score']:20s}{row[key]:>9,d}"
    if "reason" in row:
        return f"{text}  {row['reason']}"
    text += f"{1e6 * row['seconds_per_sample']:11.1f} us/sample"
    if row["part"] == "pool":
        text += f"{row['growth_bytes'] / 2**20:8.1f} MiB growth"
        return text + (f"  (stopped at {row['done']:,d})" if row["done"] < row["samples"] else "")
    return text + f"{row['peak_bytes'] / 2**20:8.1f} MiB"


def tiny(folder: Path | None) -> int:
    """Every step on a model of a few hundred parameters, in this process."""
    return main(LEAST, folder, fresh=False)
