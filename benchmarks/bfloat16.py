"""`autocast=torch.bfloat16` beside float32: time, and whether samples keep their order.

    python -m benchmarks bfloat16 [--threads 1]

Whole calls over a few batches, without verification, in processor time and by turns. Processors
that do not multiply bfloat16 (AVX-512 BF16, AMX) have nothing to gain. The order is that of a small
network trained on digits.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import tables, timing
from benchmarks.cases import TINY, Case, logits
from benchmarks.gpu.large_models import LARGE
from benchmarks.provenance import provenance, store
from benchmarks.recipes.training import digits, train
from benchmarks.setting import OURS
from fastgradnorm import score_pool

CLASSES, BATCHES = 10, 2
# Samples at a time, by model.
CASES = {"resnet18": 16, "resnet50": 4, "bert128": 4, "vit_b": 4}
WAYS = ("expected", "entropy")


def tiny(folder: Path | None) -> int:
    """Every step of next to nothing."""
    return main(folder, {TINY.name: 2}, 1, 40)


def main(
    folder: Path | None,
    cases: dict[str, int] = CASES,
    rounds: int = 3,
    samples: int = 500,
) -> int:
    """Times, prints and stores; 1 if the order of samples is another."""
    order = {way: _order(way, samples) for way in WAYS}
    print(f"rank correlation on digits: {order}", flush=True)
    rows = list[dict[str, Any]]()
    for name, batch in cases.items():
        case = TINY if name == TINY.name else LARGE[name]
        for way in WAYS:
            rows.append({"model": case.title, "way": way, "batch": batch})
            rows[-1] |= _times(case, batch, way, rounds)
            print(rows[-1], flush=True)
            if folder is not None:
                found = {"rows": rows, "rank_correlation": order}
                store("bfloat16", {"provenance": provenance(), **found}, folder)
    return int(min(order.values()) < 0.99)


def page(results: dict[str, Any]) -> str:
    """A row a model, for the documentation."""
    lines = ["| | " + " | ".join(f"{way}, times as fast" for way in WAYS) + " |"]
    lines.append("|---|" + "---:|" * len(WAYS))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in results["rows"]:
        found.setdefault(f"{row['model']}, {row['batch']} at a time", {})[row["way"]] = row
    for name, rows in found.items():
        cells = [f"{rows[way]['times_as_fast']:.2f}" if way in rows else "" for way in WAYS]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    order = [f"{results['rank_correlation'][way]:.4f} ({way})" for way in WAYS]
    told = f"Rank correlation with float32 on a network trained on digits: {', '.join(order)}."
    return "\n".join([*lines, "", told, "", tables.source(results, "bfloat16")])


def _times(case: Case, batch: int, way: str, rounds: int) -> dict[str, float]:
    torch.manual_seed(0)
    model, given = case.make(CLASSES, batch)
    pool = [given] * BATCHES
    runs = {
        "float32": partial(_scores, model.eval(), pool, way, None),
        "bfloat16": partial(_scores, model, pool, way, torch.bfloat16),
    }
    times = timing.side_by_side(runs, rounds, float("inf"))
    return {
        "times_as_fast": timing.ratio(times["float32"], times["bfloat16"], clock="cpu"),
        **{f"seconds_{name}": t.summary()["cpu_seconds_median"] for name, t in times.items()},
    }


def _order(way: str, samples: int) -> float:
    """Spearman's correlation of scores in float32 and in bfloat16."""
    given = digits(1000, samples)
    model = train(given.x, given.y, 10, 0).model
    pool = given.test_x.split(50)
    ranks = [
        _scores(model, pool, way, dtype).argsort().argsort().double()
        for dtype in (None, torch.bfloat16)
    ]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def _scores(model: nn.Module, pool: Sequence[Any], way: str, dtype: torch.dtype | None) -> Tensor:
    options = {**OURS[way], "progress": False, "verify": False}
    return score_pool(model, pool, autocast=dtype, forward=logits, **options)
