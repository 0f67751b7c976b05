"""Runs the recipes, prints and stores what they find.

python -m benchmarks recipes [--threads 1] [--again selection]

Stored after each, with when and where it was measured; where one is missing in what is stored, only
that is run.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.provenance import load, provenance, store
from benchmarks.recipes import influence, labels, pruning, selection
from benchmarks.recipes.training import Digits, digits


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    train: int = 1000
    test: int = 500
    queries: int = 100
    seeds: int = 5
    epochs: int = 20
    early: int = 5
    halves: int = 50
    models: int = 3
    dim: int = 512
    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7)


LEAST = Sizes(60, 30, 5, 2, 1, 1, 4, 1, 16, (0.5,))


def tiny(folder: Path | None) -> int:
    """Every step, of next to nothing."""
    return main(folder, LEAST)


def main(folder: Path | None, sizes: Sizes = Sizes(), again: Sequence[str] = ()) -> int:
    """All of them, the slowest last; or those that are to be measured again."""
    given = digits(sizes.train, sizes.test)
    asked = Digits(given.x, given.y, given.test_x[: sizes.queries], given.test_y[: sizes.queries])
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "labels": lambda: labels.run(
            given, sizes.seeds, (sizes.early, 3 * sizes.epochs), sizes.dim
        ),
        "pruning": lambda: pruning.run(given, sizes.seeds, sizes.shares, sizes.early, sizes.epochs),
        "selection": lambda: selection.run(given, 2 * sizes.seeds, 3 * sizes.epochs, sizes.dim),
        "influence": lambda: influence.run(
            asked, sizes.halves, sizes.seeds, sizes.epochs, sizes.models, sizes.dim
        ),
    }
    found = (None if folder is None else load("recipes", folder)) or {}
    whole = all(name in found for name in parts)
    found = {} if whole and not again else found
    for name, run in parts.items():
        if name in found and name not in again:
            continue
        start = time.perf_counter()
        found[name] = run()
        found.setdefault("measured", {})[name] = provenance()
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        for row in found[name]:
            print("  ", {key: value for key, value in row.items() if key != "each"}, flush=True)
        if folder is not None:
            own = {"provenance": provenance(), "sizes": vars(sizes)}
            store("recipes", {**own, **found}, folder)
    return 0
