"""What a loader's batch size costs: pools in batches of 1, 16 and 64, and many small rows.

Seconds are those of the processor, so that other jobs of the machine do not count; runs of all
sizes take turns in one process. `latency=0` is each batch by itself, as it is read.
"""

import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.cases import CASES, SMALL, TINY, Case, pieces, size
from benchmarks.models import bert
from benchmarks.provenance import provenance, store
from benchmarks.setting import OURS
from fastgradnorm import GradNormScorer

SIZES = (1, 16, 64)
# Samples of a pool, by model and way: seconds of work each.
POOLS = {"small": (256, 512, 1024), "resnet18": (64, 64, 64), "bert": (64, 64, 64)}
ROUNDS, ROWS, TEXTS = 2, 1_000_000, (64, 256)
_ALONE = 4  # samples of a pool that is scored one by one, as it is read


def tiny(folder: Path | None) -> int:
    """Every step of next to nothing."""
    return main(folder, small=True)


def main(folder: Path | None, *, small: bool = False) -> int:
    """Times them; prints a table, and stores it."""
    torch.set_num_threads(1)
    rows = []
    for name, counts in {"tiny": (8, 8, 8)}.items() if small else POOLS.items():
        case = {**CASES, "small": SMALL, "tiny": TINY}[name]
        for (way, options), count in zip(OURS.items(), counts, strict=True):
            found = _pool(case, way, options, count, 1 if small else ROUNDS)
            rows += found
            for row in found:
                print(
                    f"{row['model']:<9} {row['way']:<10} by {row['batch']:<15} {row['ms']:.3f} ms "
                    f"a sample, of which the loader {row['loader_ms']:.3f}; {row['ratio']:.2f} of "
                    "batches of 64",
                    flush=True,
                )
    table = _tables(640 if small else ROWS)
    for row in table:
        print(f"MLP of rows, {row['way']}: {row['us']:.1f} us a row, loader {row['loader_us']:.1f}")
    fixed = _fixed(3 if small else 200)
    each = ", ".join(f"{name} {ms:.2f} ms" for name, ms in fixed.items())
    print(f"MLP, 64 rows again and again: {each}")
    texts = [_texts(count) for count in ((4,) if small else TEXTS)]
    for row in texts:
        print(
            f"{row['texts']} texts of 8 to 512 tokens: {row['speedup']:.2f} times as fast, "
            f"{row['gap']:.1g} off"
        )
    if folder is not None:
        found = {"rows": rows, "tables": table, "fixed_ms": fixed, "texts": texts}
        store("batch_sizes", {"provenance": provenance(), **found}, folder)
    return 0


def _pool(
    case: Case, way: str, options: dict[str, Any], count: int, rounds: int
) -> list[dict[str, Any]]:
    model, samples = case.make(10, count)
    scorer = GradNormScorer(model, progress=False, verify=False, **options)
    alone = GradNormScorer(model, progress=False, verify=False, latency=0, **options)
    runs: dict[str, tuple[Callable[[], Any], int]] = {}
    for batch in SIZES:
        loader = pieces(samples, batch)
        runs[str(batch)] = (lambda loader=loader: scorer.score(loader)), count
    few = pieces(samples, 1)[:_ALONE]
    runs["1, each at once"] = (lambda: alone.score(few)), len(few)
    scorer.score(pieces(samples, 2)[:1])
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (run, of) in runs.items():
            start = time.process_time()
            run()
            found[name].append((time.process_time() - start) / of)
    loaders = {str(batch): _reading(samples, batch) / count for batch in SIZES}
    seconds = {name: statistics.median(values) for name, values in found.items()}
    own = {name: value - loaders.get(name, loaders["1"]) for name, value in seconds.items()}
    return [
        {
            "model": case.name,
            "way": way,
            "batch": name,
            "samples": runs[name][1],
            "ms": 1e3 * seconds[name],
            "loader_ms": 1e3 * loaders.get(name, loaders["1"]),
            "ratio": own[name] / own["64"],
        }
        for name in runs
    ]


def _reading(samples: Any, batch: int) -> float:
    """Seconds of making and reading the batches alone."""
    start = time.process_time()
    total = sum(size(each) for each in pieces(samples, batch))
    return (time.process_time() - start) * total / size(samples)


def _texts(count: int) -> dict[str, Any]:
    """Texts of unlike lengths, in no order, each batch padded to its longest."""
    torch.manual_seed(0)
    lengths = torch.randint(8, 513, (count,)).tolist()
    model = bert(4).eval()
    batches = []
    for start in range(0, count, 16):
        part = lengths[start : start + 16]
        mask = (torch.arange(max(part)) < torch.tensor(part)[:, None]).long()
        batches.append({"input_ids": torch.randint(1, 30000, mask.shape) * mask})
        batches[-1]["attention_mask"] = mask
    seconds: dict[int | None, list[float]] = {None: [], 0: []}
    scores = {}
    for _ in range(2):
        for latency, spent in seconds.items():
            scorer = GradNormScorer(model, scheme="entropy", latency=latency, progress=False)
            start_of = time.process_time()
            scores[latency] = scorer.score(batches).values
            spent.append(time.process_time() - start_of)
    gathered, padded = (min(spent) / count for spent in seconds.values())
    return {
        "texts": count,
        "ms": 1e3 * gathered,
        "padded_ms": 1e3 * padded,
        "speedup": padded / gathered,
        "gap": float((scores[None] / scores[0] - 1).abs().max()),
    }


def _mlp() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(30, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 5)]
    return nn.Sequential(*layers).eval()


def _fixed(times: int) -> dict[str, float]:
    """Milliseconds of 64 rows by one scorer, and of a training step on them, medians in turn."""
    model, batch, labels = _mlp(), torch.randn(64, 30), torch.randint(5, (64,))
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.0)

    def step() -> None:
        F.cross_entropy(twin(batch), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    runs: dict[str, Callable[[], Any]] = {"step": step}
    for way, options in OURS.items():
        scorer = GradNormScorer(model, progress=False, verify=False, **options)
        runs[way] = lambda scorer=scorer: scorer.score_batch(batch)  # type: ignore[misc]
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(times + 5):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= 5:  # warm by then
                found[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in found.items()}


def _tables(rows: int) -> list[dict[str, Any]]:
    """A three-layer network on rows of 30 numbers, through a loader of 64."""
    model, data = _mlp(), torch.randn(rows, 30)
    found = []
    for way, options in OURS.items():
        scorer = GradNormScorer(model, progress=False, verify=False, **options)
        scorer.score(DataLoader(TensorDataset(data[:640]), 64))
        loader = DataLoader(TensorDataset(data), 64)
        start = time.process_time()
        scorer.score(loader)
        middle = time.process_time()
        for _ in loader:
            pass
        reading = time.process_time() - middle
        us, loader_us = 1e6 * (middle - start) / rows, 1e6 * reading / rows
        found.append({"way": way, "rows": rows, "us": us, "loader_us": loader_us})
    return found
