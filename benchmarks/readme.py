"""The tables of the README and of the documentation, made from stored results."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import bfloat16, real_sizes, recurrent, tables, targets
from benchmarks.attribution import pages as attribution
from benchmarks.gradients import pages as gradients
from benchmarks.label_efficiency import regimes
from benchmarks.label_efficiency.tasks import CONFIRMING, HARDER
from benchmarks.provenance import RESULTS, load
from benchmarks.recipes import pages


def _traps(results: dict[str, Any]) -> str:
    from benchmarks import traps

    count = len(results["rows"])
    text = f"{count} small models, scores against a float64 autograd loop:\n\n"
    return text + traps.summary(results) + "\n\n" + tables.source(results, "traps")


def _witness(results: dict[str, Any]) -> str:
    from benchmarks.witness import command

    told = f"{command.tests(results)} {command.seen(results)}"
    return told + "\n\n" + tables.source(results, "witness")


# Block to the results it is made from, and how.
BLOCKS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "throughput": ("throughput", tables.throughput),
    "classes": ("throughput", tables.classes),
    "peers": ("peers", tables.peers),
    "memory": ("memory", tables.memory),
    "scaling": ("scaling", tables.scaling),
    "real-sizes": ("real_sizes", real_sizes.page),
    "recurrent": ("recurrent", recurrent.page),
    "bfloat16": ("bfloat16", bfloat16.page),
    "traps": ("traps", _traps),
    "witness": ("witness", _witness),
    "gpu": ("gpu_throughput", tables.gpu),
    "recipe-labels": ("recipes", pages.labels),
    "recipe-pruning": ("recipes", pages.pruning),
    "recipe-selection": ("recipes", pages.selection),
    "recipe-influence": ("recipes", pages.influence),
    "attribution-counts": ("attribution", attribution.counts),
    "attribution-speed": ("attribution", attribution.speed),
    "attribution-traps": ("attribution", attribution.each),
    "gradients": ("gradients", gradients.costs),
    "sketch-errors": ("gradients", gradients.accuracy),
}


def update(paths: Sequence[Path], folder: Path = RESULTS) -> int:
    """Replaces what stands between `<!-- name:start -->` and `<!-- name:end -->` in pages.

    Returns:
        2 if a page is missing, else 0.
    """
    missing = [path for path in paths if not path.exists()]
    for path in missing:
        print(f"{path} does not exist.", file=sys.stderr)
    if missing:
        return 2
    made = {"targets": targets.table(folder)}
    compared = regimes.tables(folder / "regimes")
    if compared is None:
        print(
            "regimes: no results; run `python -m benchmarks label-efficiency TASK --regimes` first"
        )
    else:
        made["regimes"] = compared
    confirmed = regimes.tables(folder / "confirmation", len(CONFIRMING) * len(regimes.PLANNED))
    if confirmed is None:
        print("confirmation: no results; run `python -m benchmarks label-efficiency confirming`")
    else:
        made["confirmation"] = confirmed
    harder = regimes.tables(folder / "harder", len(HARDER) * len(regimes.PLANNED))
    if harder is None:
        print("harder: no results; run `python -m benchmarks label-efficiency harder --confirm`")
    else:
        made["harder"] = harder
    full = regimes.tables(folder / regimes.FULL_MODEL)
    if full is None:
        print("full-model: no results; run `python -m benchmarks label-efficiency --full-model`")
    else:
        made["full-model"] = full
    for name, (command, make) in BLOCKS.items():
        results = load(command, folder)
        if results is None:
            part = command.partition("_")[0]
            print(f"{name}: no results; run `python -m benchmarks {part}` first")
        else:
            made[name] = make(results)
    for path in paths:
        text = path.read_text()
        for name, table in made.items():
            text = _replaced(text, name, table)
        path.write_text(text)
    return 0


def _replaced(text: str, name: str, table: str) -> str:
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    if start not in text or end not in text:
        return text
    before, rest = text.split(start, 1)
    print(f"{name}: written")
    return before + start + "\n" + table + "\n" + end + rest.split(end, 1)[1]
