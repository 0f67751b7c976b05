"""Loss norms, products with directions and sketches beside a training step; sketches' accuracy.

    python -m benchmarks gradients [--threads 1]

Stored after each model; a run that was stopped goes on after the last one. Times are of whole calls
over a few batches, in processor time, in turn round by round. Memory is of a process of its own, of
norm and sketch together and of `vmap(grad)` on one batch. The error of
a sketch's squared norm is told over seeds, beside what follows from the gradient itself: rows and
columns of a parameter that share a bucket meet as wholes.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import alone, timing
from benchmarks.cases import TINY, Case, logits
from benchmarks.engines.contract import label_losses
from benchmarks.engines.transformed import per_sample_gradients
from benchmarks.footprint import resident_peak
from benchmarks.gpu.large_models import LARGE
from benchmarks.provenance import load, provenance, store
from fastgradnorm import gradient_dots, gradient_sketch, score_pool
from fastgradnorm._operations import ParameterMap

CASES = {name: LARGE[name] for name in ("bert128", "resnet50", "resnet18", "vit_b")}
CLASSES, DIM, MANY, BATCHES = 10, 512, 16, 4
OPTIONS: dict[str, Any] = {"loss": "cross_entropy", "progress": False, "verify": False}


def tiny(folder: Path | None) -> int:
    """Every step of a model of a few hundred parameters."""
    return main(folder, {"tiny": TINY}, 2, 3, 0.0, fresh=False)


def main(
    folder: Path | None,
    cases: Mapping[str, Case] = CASES,
    batch: int = 4,
    seeds: int = 20,
    budget: float = 20.0,
    fresh: bool = True,
) -> int:
    """Measures, prints and stores after each model."""
    stored = (None if folder is None else load("gradients", folder)) or {}
    rows = [] if stored.get("finished", True) else stored["rows"]
    for number, (name, case) in enumerate(cases.items(), 1):
        if case.title not in {row["model"] for row in rows}:
            model, given = case.make(CLASSES, batch)
            labels = torch.randint(CLASSES, (batch,))
            row = {"model": case.title, "batch": batch, "batches": BATCHES}
            row |= times(model, given, labels, budget) | _memory(name, batch, fresh)
            rows.append(row | accuracy(model, given, labels, seeds))
            print(rows[-1], flush=True)
        if folder is not None:
            found = {"provenance": provenance(), "dim": DIM, "rows": rows}
            store("gradients", {**found, "finished": number == len(cases)}, folder)
    return 0


def _memory(name: str, batch: int, fresh: bool) -> dict[str, Any]:
    """How far memory rises; `vmap(grad)` holds at least its gradients."""
    found = {}
    for what in ("norm and sketch", "vmap(grad)"):
        told = {"name": name, "batch": batch, "what": what}
        made = alone.call("benchmarks.gradients:cell", told, fresh)
        found[what] = made.get("peak_bytes", made.get("reason"))
    return {"peak_bytes": found}


def cell(name: str, batch: int, what: str) -> dict[str, Any]:
    """Of one batch, once something small has run."""
    for case, count in ((TINY, 2), ((CASES | {"tiny": TINY})[name], batch)):
        model, given = case.make(CLASSES, count)
        labels = torch.randint(CLASSES, (count,))
        options = {**OPTIONS, "forward": lambda model, batch: logits(model, batch[0])}
        run: Callable[[], Any] = partial(
            gradient_sketch, model, [(given, labels)], DIM, norms=True, **options
        )
        if what == "vmap(grad)":
            run = partial(per_sample_gradients(model, label_losses(CLASSES)[0]), given)
        peak = resident_peak(run)
    return {"peak_bytes": peak}


def times(model: nn.Module, given: Any, labels: Tensor, budget: float) -> dict[str, Any]:
    """Of a training step on the same samples, by what is computed."""
    pool = [(given, labels)] * BATCHES
    options = {**OPTIONS, "forward": lambda model, batch: logits(model, batch[0])}
    directions = [
        {name: torch.randn_like(p) for name, p in model.named_parameters()} for _ in range(MANY)
    ]
    runs: dict[str, Callable[[], Any]] = {
        "loss norm": partial(score_pool, model, pool, **options),
        "product with 1 direction": partial(gradient_dots, model, pool, directions[:1], **options),
        f"products with {MANY}": partial(gradient_dots, model, pool, directions, **options),
        f"sketch of {DIM}": partial(gradient_sketch, model, pool, DIM, **options),
        "norm and sketch": partial(gradient_sketch, model, pool, DIM, norms=True, **options),
    }
    steps = _training(model, given, labels)
    found = timing.side_by_side(
        {**runs, "training step": steps}, 3, budget, usual=["training step"]
    )
    step = found["training step"]
    return {
        "over_step": {name: timing.ratio(found[name], step, clock="cpu") for name in runs},
        "seconds": {name: each.summary()["cpu_seconds_median"] for name, each in found.items()},
    }


def _training(model: nn.Module, given: Any, labels: Tensor) -> Callable[[], None]:
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def run() -> None:
        for _ in range(BATCHES):
            F.cross_entropy(logits(model, given), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def accuracy(model: nn.Module, given: Any, labels: Tensor, seeds: int) -> dict[str, float]:
    """Of the first sample's squared norm: rms over seeds, by its gradient, and the sketch's own."""
    F.cross_entropy(logits(model.eval(), given)[:1], labels[:1]).backward()
    named = {n: p for n, p in model.named_parameters() if p.grad is not None}
    gradients = {name: p.grad.detach() for name, p in named.items()}  # type: ignore[union-attr]
    model.zero_grad()
    square = sum(float(g.double().square().sum()) for g in gradients.values())
    errors = []
    for seed in range(seeds):
        total = torch.zeros(DIM, dtype=torch.float64)
        for name, g in gradients.items():
            total += ParameterMap(name, named[name], DIM, seed).formed(g).double()
        errors.append(float(total.square().sum()) / square - 1)
    each, least = torch.tensor(errors, dtype=torch.float64), (2 / DIM) ** 0.5
    own = sum(map(_of_rows, gradients.values())) / square**2
    return {
        "rms": float(each.square().mean().sqrt()),
        "bias": float(each.mean()),
        "seeds": seeds,
        "rms_over_least": float(each.square().mean().sqrt()) / least,
        "expected_over_least": (1 + own) ** 0.5,
    }


def _of_rows(gradient: Tensor) -> float:
    """What one parameter adds to the variance beside `‖g‖⁴`, in units of `2 / k`.

    Rows of one block of `DIM` never meet; two of other blocks do with all their elements at once.
    """
    g = gradient.reshape(len(gradient) if gradient.dim() else 1, -1)
    across = 0.0
    small = g if len(g) <= g.shape[1] else g.T
    whole = float((small @ small.T).double().square().sum())
    for side in (g, g.T):
        blocks = [float(_gram(block).double().square().sum()) for block in side.split(DIM)]
        across += whole - sum(blocks)
    squares = g.double().square()
    sides = squares.sum(0).square().sum() + squares.sum(1).square().sum()
    return across + float(squares.square().sum() - sides)


def _gram(rows: Tensor) -> Tensor:
    small = rows if len(rows) <= rows.shape[1] else rows.T
    return small @ small.T
