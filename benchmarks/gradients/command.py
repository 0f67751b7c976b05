"""Loss norms, products with directions and sketches beside a training step; sketches' accuracy.

    python -m benchmarks gradients [--threads 1] [--again "products with 16"]

Every figure is made in a process of its own and stored as soon as it is there, with when and of
which commit, so that no model is in memory with what another one left; a run that was stopped goes
on after the last figure.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import alone
from benchmarks.gradients.accuracy import LEAST as LEAST_MAPPED
from benchmarks.gradients.accuracy import MODELS
from benchmarks.gradients.costs import BATCH, FIGURES, MEMORY, title
from benchmarks.provenance import load, moment, provenance, store

DIM = 512
CASES = ("bert128", "resnet50", "vit_b", "resnet18")
# What a run that is stopped may lack.
_LAST, _MINOR = ("vit_b", "resnet18"), ("sketch", "product with 1 direction")
Cell = tuple[str, str, str, dict[str, Any]]  # model, kind, figure, arguments


def tiny(folder: Path | None) -> int:
    """Every step of a model of a few hundred parameters."""
    return main(folder, ("tiny",), (LEAST_MAPPED,), 2, 8, 3, fresh=False)


def main(
    folder: Path | None,
    cases: Sequence[str] = CASES,
    mapped: Sequence[str] = MODELS,
    batch: int = BATCH,
    seeds: int = 200,
    rounds: int = 3,
    again: Sequence[str] = (),
    *,
    fresh: bool = True,
) -> int:
    """Measures, prints and stores after each figure; 1 if one could not be made."""
    found = (None if folder is None else load("gradients", folder)) or {}
    if found.get("finished", True) and not again:
        found = {"rows": [], "accuracy": []}
    for row in (*found["rows"], *found["accuracy"]):
        for figure in (f for kind in _TARGETS for f in row.get(kind, {}).values()):
            figure.setdefault("measured", moment(found["provenance"]))
    found |= {"provenance": provenance(), "dim": DIM, "finished": False}
    told = {"batch": batch, "rounds": rounds}
    failed = 0
    for case, kind, figure, arguments in _cells(cases, mapped, told, seeds):
        row = _row(found, kind, case, batch)
        if figure in row.get(kind, {}) and figure not in again:
            continue
        made = alone.call(_TARGETS[kind], {"dim": DIM, **arguments}, fresh)
        print(f"{case}, {figure}: {made}", flush=True)
        failed += "reason" in made
        row.setdefault(kind, {})[figure] = {**made, "measured": moment()}
        _store(found, folder)
    found["finished"] = True
    _store(found, folder)
    return int(failed > 0)


_TARGETS = {
    "costs": "benchmarks.gradients.costs:cost",
    "memory": "benchmarks.gradients.costs:memory",
    "sketch": "benchmarks.gradients.accuracy:cell",
}


def _cells(
    cases: Sequence[str], mapped: Sequence[str], told: dict[str, Any], seeds: int
) -> list[Cell]:
    """All figures, in the order in which they are made."""
    found: list[Cell] = []
    for figure in FIGURES:
        found += [(case, "costs", figure, {"name": case, "what": figure, **told}) for case in cases]
    for what in MEMORY:
        given = {"batch": told["batch"], "what": what}
        found += [(case, "memory", what, {"name": case, **given}) for case in cases]
    found += [(name, "sketch", "error", {"name": name, "seeds": seeds}) for name in mapped]
    return sorted(found, key=lambda cell: (cell[2] in _MINOR, cell[0] in _LAST))


def _row(found: dict[str, Any], kind: str, name: str, batch: int) -> dict[str, Any]:
    """The row of a model, made when it is first asked for."""
    rows: list[dict[str, Any]] = found["accuracy" if kind == "sketch" else "rows"]
    for row in rows:
        if row["name"] == name:
            return row
    row = {"name": name}
    if kind != "sketch":
        row |= {"model": title(name), "batch": batch}
    rows.append(row)
    return row


def _store(found: dict[str, Any], folder: Path | None) -> None:
    if folder is not None:
        store("gradients", found, folder)
