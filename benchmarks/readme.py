"""The README's tables, made from stored results."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import tables, targets
from benchmarks.provenance import RESULTS, load


def _traps(results: dict[str, Any]) -> str:
    from benchmarks import traps

    count = len(results["rows"])
    text = f"{count} small models, scores against a float64 autograd loop:\n\n"
    return text + traps.summary(results) + "\n\n" + tables.source(results, "traps")


# Block to the results it is made from, and how.
BLOCKS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "throughput": ("throughput", tables.throughput),
    "classes": ("throughput", tables.classes),
    "peers": ("peers", tables.peers),
    "memory": ("memory", tables.memory),
    "scaling": ("scaling", tables.scaling),
    "traps": ("traps", _traps),
    "gpu": ("gpu_throughput", tables.gpu),
}


def update(path: Path, folder: Path = RESULTS) -> int:
    """Replaces what stands between `<!-- name:start -->` and `<!-- name:end -->`."""
    if not path.exists():
        print(f"{path} does not exist.", file=sys.stderr)
        return 2
    text = path.read_text()
    for name, (command, make) in BLOCKS.items():
        results = load(command, folder)
        if results is None:
            part = command.partition("_")[0]
            print(f"{name}: no results; run `python -m benchmarks {part}` first")
        else:
            text = _replaced(text, name, make(results), path)
    text = _replaced(text, "targets", targets.table(folder), path)
    path.write_text(text)
    return 0


def _replaced(text: str, name: str, table: str, path: Path) -> str:
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    if start not in text or end not in text:
        print(f"{name}: no {start} ... {end} in {path.name}")
        return text
    before, rest = text.split(start, 1)
    print(f"{name}: written")
    return before + start + "\n" + table + "\n" + end + rest.split(end, 1)[1]
