"""Packages for influence beside ours: which gradients they have, and what these cost.

    python -m benchmarks attribution [--threads 1] [--again traps resnet18]

Stored after the traps and every model, with when and of which commit; one that was stopped goes on
there. Packages that are not installed leave their column empty (see `docs/attribution.md`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.attribution import speed, traps
from benchmarks.attribution.packages import OURS, PACKAGES
from benchmarks.provenance import load, moment, provenance, store
from benchmarks.trap_models import TRAPS


def tiny(folder: Path | None) -> int:
    """Every step of next to nothing."""
    return main(folder, TRAPS[::12], speed.LEAST, 1, 0.0, fresh=False)


def main(
    folder: Path | None,
    models: Sequence[Any] = TRAPS,
    works: Sequence[speed.Work] = speed.WORKS,
    rounds: int = 5,
    budget: float = 30.0,
    again: Sequence[str] = (),
    *,
    fresh: bool = True,
) -> int:
    """Measures, prints and stores; 1 if one of our own outcomes is wrong or a crash."""
    found = (None if folder is None else load("attribution", folder)) or {}
    if found.pop("finished", True) and not again:
        found = {}
    if found:  # what an earlier run measured keeps its own date
        earlier = moment(found["provenance"])
        found.setdefault("measured", earlier)
        for row in found.get("rows", []):
            row.setdefault("measured", earlier)
    facts = provenance()
    facts["versions"] |= {package.distribution: package.version for package in PACKAGES}
    leaves_out = {package.name: package.leaves_out for package in PACKAGES}
    names = [OURS.name, *leaves_out]
    found |= {"provenance": facts, "packages": names, "leaves_out": leaves_out}
    if "traps" not in found or "traps" in again:
        found["traps"], found["measured"] = traps.measure(models), moment()
        _store(found, folder)
    rows = found.setdefault("rows", [])
    for work in works:
        if work.case in again or work.title not in {row["work"] for row in rows}:
            new = speed.measure(work, rounds, budget, fresh)
            for row in new:
                print("  ", row, flush=True)
            new = [{**row, "measured": moment()} for row in new]
            rows[:] = [row for row in rows if row["work"] != work.title] + new
            _store(found, folder)
    found["finished"] = True
    _store(found, folder)
    ours = [row[OURS.name]["outcome"] for row in found["traps"]]
    wrong = [row for row in rows if row["package"] == OURS.name and "reason" in row]
    return int(bool(wrong) or any(outcome in ("wrong", "crashed") for outcome in ours))


def _store(found: dict[str, Any], folder: Path | None) -> None:
    if folder is not None:
        store("attribution", {"finished": False, **found}, folder)
