"""The packages on the models of `traps`: products of all pairs of a batch with itself."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.attribution.contract import Package, error_of, exact_products, sizes_of
from benchmarks.attribution.packages import OURS, PACKAGES
from benchmarks.engines.contract import first_line
from benchmarks.trap_cases import CLASSES, Trap
from benchmarks.traps import EXACT, Outcome
from fastgradnorm import SlowPathWarning


def measure(traps: Sequence[Trap]) -> list[dict[str, Any]]:
    """Every package on every trap."""
    rows = []
    for trap in traps:
        row: dict[str, Any] = {"trap": trap.name, "group": trap.group}
        for package in (OURS, *PACKAGES):
            row[package.name] = judge(package, trap)
        rows.append(row)
        told = [
            f"{name}: {each['outcome']}" for name, each in row.items() if isinstance(each, dict)
        ]
        print(f"{trap.group}: {trap.name}\n    " + ", ".join(told), flush=True)
    return rows


def judge(package: Package, trap: Trap) -> Outcome:
    """In float64, and where a package does not run in that, in float32; by its ways in turn."""
    if package.distribution and package.version is None:
        return {"outcome": "not installed", "message": package.distribution}
    outcome: Outcome = {}
    for dtype in EXACT:
        for way in package.ways:
            outcome = _judge(package, way, trap, dtype)
            if outcome["outcome"] in ("exact", "wrong"):
                return outcome
        if "Double" not in outcome["message"] and "float64" not in outcome["message"]:
            break
    return outcome


def _judge(package: Package, way: str, trap: Trap, dtype: torch.dtype) -> Outcome:
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = _run(package, way, trap, dtype)
    except Exception as error:  # whatever a package raises is its outcome
        kind = "refused" if package.refuses(error) else "crashed"
        return {"outcome": kind, "message": first_line(error)}
    if trap.refuse:
        return {"outcome": "wrong", "error": None, "message": "must be refused: " + trap.refuse}
    model, batches = trap.make()
    worst, limit = 0.0, 0.0
    for products, x in zip(found, batches, strict=True):
        limit = max(limit, EXACT[products.dtype])  # some hand on float32 whatever they were given
        y = _labels(x)
        sizes = sizes_of(model, x, y)
        worst = max(worst, error_of(products, exact_products(model, x, y, x, y), (sizes, sizes)))
    outcome: Outcome = {"outcome": "exact" if worst <= limit else "wrong", "error": worst}
    if way != next(iter(package.ways)):
        outcome["way"] = way
    if dtype != torch.float64:
        outcome["dtype"] = str(dtype).removeprefix("torch.")
    if any(issubclass(w.category, SlowPathWarning) for w in told):
        outcome["message"] = "sample by sample"
    return outcome


def _run(package: Package, way: str, trap: Trap, dtype: torch.dtype) -> list[Tensor]:
    model, batches = trap.make(dtype)
    products = package.ways[way](copy.deepcopy(model))
    return [products(x, _labels(x), x, _labels(x), len(x)).detach() for x in batches]


def _labels(x: Tensor) -> Tensor:
    return torch.arange(len(x)) % CLASSES
