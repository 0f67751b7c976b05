"""What users see from end to end: a pool in host memory, read by a loader and scored on the device.

Beside it the loader alone, and the same number of samples from large batches that are on the device
already: the ceiling. `max(loader, ceiling)` is what could be reached if one hid the other.
"""

import gc
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from benchmarks import timing
from benchmarks.cases import first, move, pieces
from benchmarks.gpu import precision
from benchmarks.gpu.graphs import ENTROPY, EXPECTED, LAST
from benchmarks.gpu.large_models import case
from benchmarks.gpu.precision import Mode
from benchmarks.gpu.report import Report
from fastgradnorm import GradNormScorer

CLASSES = 10
LARGE = 1024  # samples of a batch of the ceiling
SHORT, MOST = 2.0, 3  # seconds below which a reading is repeated, and readings at most


@dataclass(frozen=True)
class Cell:
    """One way to score a pool.

    Attributes:
        samples: Of the pool.
        batch: Samples of a batch of the loader.
        workers: Processes that load.
        least: Seconds that it takes, about.
        verify: Whether the option is left at its default; else it is off.
        pinned: Whether batches are made in pinned memory.
    """

    model: str
    mode: Mode
    options: dict[str, Any]
    samples: int
    batch: int
    workers: int
    least: float = 6.0
    verify: bool = False
    pinned: bool = True

    @property
    def job(self) -> str:
        """What is scored, however it is loaded."""
        scheme = next(iter(self.options.values()), "expected")
        return f"{self.model}, {scheme}, {self.mode.name}, {self.samples} samples"

    @property
    def key(self) -> str:
        """Of the row."""
        told = f"{self.job}, batch {self.batch}, {self.workers} workers"
        told += "" if self.pinned else ", not pinned"
        return told + (", verified" if self.verify else "")


_MANY = 50_000
BF16, FLOAT32 = precision.BF16, precision.FLOAT32
CELLS = [
    Cell("resnet18", BF16, EXPECTED, _MANY, 256, 4, least=12),
    Cell("resnet18", BF16, ENTROPY, _MANY, 256, 4),
    Cell("resnet18", BF16, LAST, _MANY, 256, 4),
    Cell("resnet18", BF16, EXPECTED, 2_048, 1, 0),
    Cell("bert128", BF16, EXPECTED, 4_096, 64, 4, least=22),
    Cell("resnet18", BF16, ENTROPY, _MANY, 256, 4, verify=True),
    Cell("resnet18", BF16, LAST, _MANY, 1024, 12),
    Cell("resnet18", BF16, ENTROPY, _MANY, 64, 0),
    Cell("resnet18", BF16, EXPECTED, 2_048, 1, 0, pinned=False),
    Cell("resnet18", FLOAT32, EXPECTED, 16_384, 256, 4, least=10),
    Cell("resnet18", BF16, ENTROPY, _MANY, 1024, 12),
]
DRY = [
    Cell("resnet18", BF16, EXPECTED, 12, 4, 1, verify=True),
    Cell("bert128", BF16, EXPECTED, 7, 2, 0),
    Cell("resnet18", FLOAT32, LAST, 5, 1, 0, pinned=False),
]
_CEILINGS: dict[str, list[float]] = {}  # by job: seconds
_POOLS: dict[str, tuple[Any, Any]] = {}  # by name: a model and its samples


class Texts(Dataset[dict[str, Tensor]]):
    """Tokenized texts, one mapping a sample."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self._tensors.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[index] for name, tensor in self._tensors.items()}


def run(report: Report) -> None:
    """One row a model, scheme and loader."""
    for each in DRY if report.dry else CELLS:
        if report.wanted(each.key, 0 if report.dry else each.least):
            with report.step(each.key) as row, each.mode.set():
                score(row, each, report)
        gc.collect()
        if report.device == "cuda":
            torch.cuda.empty_cache()


def score(row: dict[str, Any], cell: Cell, report: Report) -> None:
    """Fills in one row, what is told first at the front."""
    model, samples = _made(cell, report)
    whole = dataset(samples, cell.samples)
    row |= {"model": cell.model, "mode": cell.mode.name, "options": cell.options}
    row |= {"samples": cell.samples, "batch": cell.batch, "workers": cell.workers}
    row |= {"pinned": cell.pinned, "verify": "default" if cell.verify else False}
    options = {**cell.options, "autocast": cell.mode.autocast, "progress": False}
    options |= {} if cell.verify else {"verify": False}
    scorer = GradNormScorer(model, **options)
    load = partial(loader, cell, pin=cell.pinned and report.device == "cuda")
    row["warm_seconds"] = timing.clocked(
        partial(scorer.score, load(Subset(whole, range(min(2 * cell.batch, cell.samples))))),
        report.device,
    )
    ceiling = _ceiling(cell, model, samples, report)
    row["ceiling_seconds"] = timing.quantile(ceiling, 0.5)
    row["first_seconds"] = _first(model, load(whole), options, report)
    facts: dict[str, Any] = {}

    def end_to_end() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # random weights are doubted where scores are verified
            scored = scorer.score(load(whole))
        assert len(scored) == cell.samples, len(scored)
        facts.update({name: scored.provenance[name] for name in ("gathered", "replays")})

    seconds = _readings(end_to_end, report)
    row |= {"seconds": timing.quantile(seconds, 0.5), "readings": seconds, **facts}
    row["samples_per_second"] = cell.samples / row["seconds"]
    row["share_of_ceiling"] = row["ceiling_seconds"] / row["seconds"]
    alone = _readings(lambda: _drain(load(whole)), report)
    row["loader_seconds"] = timing.quantile(alone, 0.5)
    hidden = max(row["loader_seconds"], row["ceiling_seconds"])
    row["share_of_hidden"] = hidden / row["seconds"]


def dataset(samples: Any, count: int) -> Dataset[Any]:
    """The first samples as a user's dataset: rows of a tensor, or mappings."""
    few = first(samples, count)
    return Texts(few) if isinstance(few, dict) else TensorDataset(few)


def loader(cell: Cell, data: Dataset[Any], *, pin: bool) -> DataLoader[Any]:
    """A user's loader, made anew: its workers start when it is read."""
    how: dict[str, Any] = {"num_workers": cell.workers, "pin_memory": pin}
    return DataLoader(data, batch_size=cell.batch, **how)


def _made(cell: Cell, report: Report) -> tuple[Any, Any]:
    """The model on the device, and the samples of its largest pool in host memory, made once."""
    if cell.model not in _POOLS:
        found = case(cell.model, report.dry)
        model, _ = found.make(CLASSES, 2, report.device)
        every = DRY if report.dry else CELLS
        most = max(each.samples for each in every if each.model == cell.model)
        _POOLS[cell.model] = model, found.draw(most)
    return _POOLS[cell.model]


def _ceiling(cell: Cell, model: Any, samples: Any, report: Report) -> list[float]:
    """Seconds of the same samples in large batches that are on the device, without verification."""
    if cell.job not in _CEILINGS:
        few = first(samples, cell.samples)
        batches = [move(part, report.device) for part in pieces(few, LARGE)]
        how: dict[str, Any] = {"autocast": cell.mode.autocast, "progress": False, "verify": False}
        scorer = GradNormScorer(model, **cell.options, **how)
        scorer.score(batches[:2])
        _CEILINGS[cell.job] = _readings(lambda: scorer.score(batches), report)
    return _CEILINGS[cell.job]


def _first(model: Any, batches: Iterable[Any], options: dict[str, Any], report: Report) -> float:
    """Seconds until the first batch is scored, of a scorer that waits for no other batch."""
    timing.wait(report.device)
    start = time.perf_counter()
    scores = GradNormScorer(model, **options, latency=0).stream(batches)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        next(iter(scores))
    timing.wait(report.device)
    return time.perf_counter() - start


def _drain(batches: Iterable[Any]) -> None:
    """Reads all batches, and does nothing with them."""
    for _ in batches:
        pass


def _readings(run: Callable[[], Any], report: Report) -> list[float]:
    """Seconds of one run, or of several where that is short."""
    clocks = [timing.clocked(run, report.device)]
    while not report.dry and len(clocks) < MOST and clocks[0] < SHORT and report.left > 5:
        clocks.append(timing.clocked(run, report.device))
    return clocks


def table(document: dict[str, Any]) -> list[str]:
    """Two lines a row: rates and shares, then what was gathered and replayed."""
    lines = []
    for row in document["rows"]:
        if "seconds" not in row:
            lines.append(f"{row['key']}: nothing")
            continue
        loaded = row.get("loader_seconds", float("nan"))
        lines.append(
            f"{row['key']}: {row['samples_per_second']:.0f}/s in {row['seconds']:.2f} s, "
            f"{100 * row['share_of_ceiling']:.0f} % of the ceiling "
            f"({row['samples'] / row['ceiling_seconds']:.0f}/s); loader alone {loaded:.2f} s, "
            f"{100 * row.get('share_of_hidden', float('nan')):.0f} % of the longer of both; "
            f"first batch {row['first_seconds']:.2f} s, warm-up {row['warm_seconds']:.2f} s"
        )
        lines.append(f"    gathered {row['gathered']}, replays {row['replays']}"[:300])
    return lines


def summary(document: dict[str, Any]) -> list[str]:
    """A line a row: samples a second and the share of the ceiling."""
    return [
        f"{row['key']}: {row['samples_per_second']:.0f}/s, "
        f"{100 * row['share_of_ceiling']:.0f} % of the ceiling, "
        f"first batch {row['first_seconds']:.2f} s"
        for row in document["rows"]
        if "seconds" in row
    ]
