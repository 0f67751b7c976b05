"""Part: a small model of each family of timm and transformers, scored on the device.

Its scores are held against a loop in float64 over the model itself, on the device too. Worker
processes judge a slice of the families each, one after another: a process that uses CUDA cannot
fork, so that a crash ends a worker, and another one goes on after the family that it was at.
"""

import gc
import os
import signal
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.report import Report, shortened
from benchmarks.gpu.slices import share_out
from benchmarks.provenance import RESULTS, installed, load
from benchmarks.zoo.command import NAME, families
from benchmarks.zoo.judge import CLASSES, SAMPLES, Family, Outcome, judge

LIBRARIES = ("timm", "transformers")  # keys of families begin so
DRY = ("timm/resnet", "timm/vision_transformer", "transformers/bert", "transformers/gpt2")
AT_ONCE = 10
LIMIT = 20.0  # seconds of a family
LEAST = 3.0  # left, for another one to begin
_AGAIN = 5.0  # seconds after which one that goes on past its limit is stopped anew
_MADE = ("exact", "slow", "refused")  # outcomes of the stored run that tell of a model
_CUT = "cut off at the limit of time"


class TooLongError(BaseException):
    """A family's time is over; no `except Exception` of a model or of the engine takes it."""


def run(report: Report) -> None:
    """Every slice in a process of its own; a family that one of them ended within has crashed."""
    count = 2 if report.dry else max(1, min(AT_ONCE, (os.cpu_count() or 1) - 3))
    share_out(report, "zoo", [f"{index}/{count}" for index in range(count)])
    document = report.document
    more = {name: installed(name) for name in ("timm", "torchvision")}
    document.get("provenance", {}).get("versions", {}).update(more)
    rows = [row for row in document["rows"] if not row.get("cut")]
    told, raised = {row["key"] for row in rows}, dict(document["errors"])
    for key, said in raised.items():
        if said == _CUT:
            document["left_out"].append(key)
            del document["errors"][key]
        elif key.startswith(LIBRARIES) and key not in told:
            last = said.strip().splitlines()[-1][:400]
            rows.append({"key": key, "outcome": "crashed", "message": last})
    document["rows"] = rows
    report.save()


def one(report: Report, only: str) -> None:
    """Judges one slice of the families, in this process.

    Args:
        report: Of the worker.
        only: `"index/count"`; all workers order the families alike.
    """
    index, count = map(int, only.split("/"))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # Before anything has a limit: what the engine imports, and the device's context.
    plain = Family("", "", lambda: (nn.Linear(2, CLASSES), torch.randn(SAMPLES, 2), ""))
    judge(plain, report.device)
    mine = ordered(_found(report), _stored())[index::count]
    if report.wanted(f"slice {only}"):  # another process did not say so before
        report.add({"key": f"slice {only}", "families": len(mine)})
    for family in mine:
        if report.wanted(family.key, 0 if report.dry else LEAST):
            with report.step(family.key) as row:
                row |= _judged(family, report.device)
            gc.collect()
            if not report.dry:
                torch.cuda.empty_cache()


def _found(report: Report) -> list[Family]:
    """All families of the libraries that can be imported."""
    found: list[Family] = []
    for library in LIBRARIES:
        with report.step(f"import of {library}") as row:
            found += families([library])
            row["outcome"] = "imported"
    report.document["rows"] = [r for r in report.document["rows"] if r.get("outcome") != "imported"]
    return [f for f in found if f.key in DRY] if report.dry else found


def _stored() -> dict[str, Outcome]:
    """The rows of the stored run on the CPU."""
    stored = load(NAME, RESULTS)
    return {} if stored is None else dict(stored["rows"])


def ordered(found: Sequence[Family], stored: dict[str, Outcome]) -> list[Family]:
    """Families that the stored run has a model of, then new ones; none that it could not make.

    The libraries' families are mixed, small ones first in both, so that slices by a step are alike,
    and that a run that is cut off leaves out the largest.
    """
    known: list[tuple[float, str, Family]] = []
    for library in dict.fromkeys(family.library for family in found):
        made = [
            family
            for family in found
            if family.library == library and stored.get(family.key, {}).get("outcome") in _MADE
        ]
        made.sort(key=lambda family: (stored[family.key].get("parameters", 0), family.name))
        known += [(i / len(made), family.key, family) for i, family in enumerate(made)]
    known.sort(key=lambda each: each[:2])
    return [each[2] for each in known] + [f for f in found if f.key not in stored]


def _judged(family: Family, device: str) -> Outcome:
    """The outcome, or that it took too long."""
    try:
        with _limited(LIMIT):
            return judge(family, device)
    except TooLongError:
        return {"outcome": "not made", "message": f"not done in {LIMIT:.0f} seconds"}


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises within the block once its time is over, as soon as PyTorch returns to Python."""

    def stop(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in document["rows"] if "outcome" in row]


def table(document: dict[str, Any]) -> list[str]:
    """One line a family that is not exact, with what was said; then the slowest ones."""
    rows = _rows(document)
    lines = []
    for row in sorted(rows, key=lambda row: (row["outcome"], row["key"])):
        if row["outcome"] != "exact":
            errors = " ".join(
                f"{name} {float(row[name]):.1e}"
                for name in ("error", "error_float64")
                if name in row
            )
            message = shortened(row.get("message", ""), 1).partition("and slow. ")
            lines.append(
                f"{row['outcome']:<9} {row['key']:<44} {errors} {(message[2] or message[0])[:300]}"
            )
    lines += [
        f"loop on the CPU: {row['key']:<44} {row['device_said'][:200]}"
        for row in rows
        if "device_said" in row
    ]
    slowest = sorted(rows, key=lambda row: -row.get("took", 0.0))[:10]
    return lines + [
        f"{row.get('took', 0.0):5.1f} s  {row['key']:<44} {row.get('model', '')}" for row in slowest
    ]


def summary(document: dict[str, Any]) -> list[str]:
    """How many came out how, and the names of what does not hold."""
    rows, stored = _rows(document), _stored()
    counts = Counter(row["outcome"] for row in rows)

    def names(*outcomes: str, once: tuple[str, ...] = ()) -> list[str]:
        found = (row["key"] for row in rows if row["outcome"] in outcomes)
        return sorted(k for k in found if not once or stored.get(k, {}).get("outcome") in once)

    meant = sum(row.get("families", 0) for row in document["rows"])
    return [
        f"{len(rows)} of {meant} families: {dict(sorted(counts.items()))}",
        f"wrong: {names('wrong')}; crashed: {names('crashed')}",
        f"exact on the CPU, here slow: {names('slow', once=('exact',))}; "
        f"refused: {names('refused', once=('exact',))}",
        f"made on the CPU, not here: {names('not made', once=_MADE)}",
    ]
