"""`python -m benchmarks zoo`: every family in a process of its own, stored as it goes."""

import json
import os
import resource
import signal
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.provenance import RESULTS, installed, load, provenance, store
from benchmarks.zoo import table, timm_models, transformers_models
from benchmarks.zoo.judge import CLASSES, EXACT, SAMPLES, Family, Outcome, judge

NAME = "zoo"
_PAGE = Path(__file__).parents[2] / "docs" / "models.md"
_SECONDS = 300  # of a processor, a family
_EVERY = 5  # families between two writings


def families(libraries: Sequence[str]) -> Iterator[Family]:
    """All of them, by library."""
    made = {"timm": timm_models.families, "transformers": transformers_models.families}
    for library in libraries:
        if installed(library) is None:
            print(f"{library} is not installed")
            continue
        yield from made[library]()


def main(
    folder: Path | None,
    *,
    libraries: Sequence[str] = ("timm", "transformers"),
    only: Sequence[str] = (),
    again: Sequence[str] = (),
    fewer: bool = False,
) -> int:
    """Judges what is not judged yet; 1 if a score is wrong or a model crashed.

    Args:
        folder: Where results are, and are gone on with; nowhere if None.
        libraries: Which libraries' families.
        only: Names of families; all if empty. They are judged again.
        again: Outcomes that are judged again.
        fewer: Two families a library.
    """
    stored = None if folder is None else load(NAME, folder)
    rows: dict[str, Outcome] = {} if stored is None else dict(stored["rows"])
    todo = [f for f in families(libraries) if not only or f.name in only]
    if fewer:
        todo = [f for f in todo if f.name in ("resnet", "vision_transformer", "bert", "gpt2")]
    todo = [f for f in todo if f.key not in rows or only or rows[f.key]["outcome"] in again]
    facts = provenance()
    facts["versions"] |= {name: installed(name) for name in ("timm", "torchvision")}
    judge(Family("", "", lambda: (nn.Linear(2, CLASSES), torch.randn(SAMPLES, 2), "")))  # imports
    for done, family in enumerate(todo, 1):
        row = _apart(family) | {"commit": facts["commit"]}
        rows[family.key] = row
        print(f"{family.key:44s}{row['outcome']:10s}{row.get('message', '')[:200]}", flush=True)
        if folder is not None and (done % _EVERY == 0 or done == len(todo)):
            _write(rows, facts, folder)
    print("\n" + table.counts(rows))
    outcomes = Counter(row["outcome"] for row in rows.values())
    return int(bool(outcomes["wrong"] or outcomes["crashed"]))


def _write(rows: dict[str, Outcome], facts: dict[str, Any], folder: Path) -> None:
    results = {
        "provenance": facts,
        "samples": SAMPLES,
        "exact_below": {str(dtype): error for dtype, error in EXACT.items()},
        "rows": dict(sorted(rows.items())),
    }
    path = store(NAME, results, folder)
    if folder == RESULTS:
        _PAGE.write_text(table.page(results))
    print(f"written: {path}", flush=True)


def _apart(family: Family) -> Outcome:
    """Judged in a child: a crash is its outcome, and what it imports and allocates goes with it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS + 5))
        with os.fdopen(write, "w") as out:
            json.dump(judge(family), out)
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
            return {"outcome": "not made", "message": f"not done in {_SECONDS} seconds"}
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            return {"outcome": "crashed", "message": f"the process died of {name}"}
        text = answer.read()
    return dict(json.loads(text)) if text else {"outcome": "crashed", "message": "no answer"}
