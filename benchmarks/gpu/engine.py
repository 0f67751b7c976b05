"""Part 1: the engine's scores beside plain autograd in float64, each model in a process of its own.

Errors are relative, the largest over the samples; float32 is PyTorch as it is out of the box. What
makes a model slow, or fail, is told in PyTorch's own words, and where a pass waits for the device.
"""

import copy
import itertools
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from benchmarks.cases import move
from benchmarks.gpu import precision
from benchmarks.gpu.engine_models import Subject, subjects
from benchmarks.gpu.precision import Mode
from benchmarks.gpu.reference import checked_on_cpu, compared, scores
from benchmarks.gpu.report import Report
from benchmarks.gpu.slices import share_out
from benchmarks.gpu.syncs import places
from fastgradnorm import GradNormScorer

TARGET = 1e-5  # of float32
AT_ONCE = 11
SAMPLES = 16
RTOL = 0.05


@dataclass
class _Given:
    """A model, its batch, and its scores in float64 by `params`."""

    subject: Subject
    model: nn.Module
    batch: Any
    exact: dict[str, Any] = field(default_factory=dict)


def run(report: Report) -> None:
    """Every model in a process of its own."""
    share_out(report, "engine", list(subjects(report.dry)), AT_ONCE)


def one(report: Report, name: str) -> None:
    """All cells of one model, the most telling first."""
    subject = subjects(report.dry)[name]
    model, batch = subject.make(2 if report.dry else SAMPLES, report.dry)
    given = _Given(subject, model.to(report.device), move(batch, report.device))
    for params in ("all", "last_layer"):
        with report.step(f"{name}, float64, {params}") as row:
            given.exact[params] = _exact(row, given, params, report)
    worst = 0.0
    for backend, mode, what in _cells(report.dry and name != "mlp"):
        key = f"{name}, {backend}, {mode.name}, {what}"
        if mode == precision.IEEE and worst <= TARGET:
            break  # nothing to explain by what cuDNN does
        if not report.wanted(key, 0 if report.dry else 3):
            continue
        if what == "syncs":
            with report.step(key) as row, mode.set():
                row |= _syncs(given, report, backend, mode)
            continue
        found = _cell(report, key, given, backend, mode, what)
        if mode == precision.FLOAT32 and what != "rtol":
            worst = max(worst, found.get("worst", 0.0))


def _exact(row: dict[str, Any], given: _Given, params: str, report: Report) -> dict[str, Any]:
    """Scores in float64, on the device; on the CPU where the device refuses."""
    subject = given.subject
    how: dict[str, Any] = {
        "head": subject.head if params == "last_layer" else None,
        "dense": subject.dense,
        "cudnn": subject.cudnn,
    }
    try:
        exact = scores(given.model, given.batch, **how, device=report.device)
        row["cpu_difference"] = checked_on_cpu(given.model, given.batch, exact, **how)
    except RuntimeError as error:
        row["on the CPU"] = repr(error)[:400]
        exact = scores(given.model, given.batch, **how, device="cpu")
    return exact


def _cells(fewer: bool) -> list[tuple[str, Mode, str]]:
    """Backend, mode, and what is asked for; `fewer` without the kernels."""
    float32, bf16, tf32 = precision.FLOAT32, precision.BF16, precision.TF32
    modes = (float32, bf16, tf32)
    backends = ("auto",) if fewer else ("auto", "triton")
    found = [(backend, mode, "all") for mode in modes for backend in backends]
    found += [("auto", float32, "syncs"), ("auto", bf16, "syncs"), (backends[-1], float32, "syncs")]
    found += [(backend, mode, "last_layer") for mode in modes for backend in backends]
    found += [("auto", float32, "verify"), ("auto", float32, "rtol"), ("auto", bf16, "rtol")]
    found += [(backend, precision.TF32_NEW, "all") for backend in backends]
    return found + [(backend, precision.IEEE, "all") for backend in backends]


def _cell(
    report: Report, key: str, given: _Given, backend: str, mode: Mode, what: str
) -> dict[str, Any]:
    """Scores of one way to ask for them, held against the exact ones."""
    schemes = ("entropy",) if given.subject.dense else ("expected", "entropy")
    options: dict[str, Any] = {"verify": what == "verify", "backend": backend, "progress": False}
    if what == "last_layer":
        options["params"] = what
    if what == "rtol":
        options["rtol"], schemes = RTOL, ("expected",)
    with report.step(key) as row, warnings.catch_warnings(record=True) as told, mode.set():
        row |= {"model": given.subject.name, "backend": backend, "mode": mode.name, "params": what}
        if what == "rtol" and given.subject.dense:
            row["nothing"] = "drawn scores have no exact value"
            return row
        warnings.simplefilter("always")
        model = copy.deepcopy(given.model)
        scorer = GradNormScorer(model, scheme=schemes, autocast=mode.autocast, **options)
        start = time.perf_counter()
        try:
            found = scorer.score([given.batch])
        finally:
            row["seconds"] = time.perf_counter() - start
            row["warnings"] = sorted({f"{w.category.__name__}: {w.message}"[:500] for w in told})
        right = given.exact.get("last_layer" if what == "last_layer" else "all", {})
        row["schemes"] = {k: compared(found[k].values, right[k]) for k in schemes if k in right}
        row["worst"] = max((each["error"] for each in row["schemes"].values()), default=0.0)
    return row


def _syncs(given: _Given, report: Report, backend: str, mode: Mode) -> dict[str, Any]:
    """Where a later batch of a pool waits; the first one makes the plan."""
    scorer = GradNormScorer(
        given.model,
        scheme="entropy" if given.subject.dense else ("expected", "entropy"),
        backend=backend,
        autocast=mode.autocast,
        latency=0,
        verify=False,
        progress=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = scorer.stream(itertools.repeat(given.batch))
        next(scores)
        next(scores)
    found = places(lambda: next(scores), cuda=not report.dry)
    return {"model": given.subject.name, "syncs": sum(found.values()), "places": found}


def table(document: dict[str, Any]) -> list[str]:
    """One line a model and way to ask: errors, and what is wrong."""
    lines = []
    for row in document["rows"]:
        if "schemes" in row:
            errors = " ".join(
                f"{k} {v['error']:.1e} (ranks {v['ranks']:.3f})" for k, v in row["schemes"].items()
            )
            slow = "; ".join((w.partition("and slow. ")[2] or w)[:150] for w in row["warnings"])
            lines.append(f"{row['key']:<48} {errors} {row['seconds']:6.2f} s  {slow}")
        elif "places" in row:
            top = next(iter(row["places"]), "")
            lines.append(f"{row['key']:<48} {row['syncs']:4d} syncs  {top[:150]}")
    return lines


def summary(document: dict[str, Any]) -> list[str]:
    """What does not hold."""
    rows = [row for row in document["rows"] if "schemes" in row]
    exact = [r for r in rows if r["mode"] == "float32" and r["params"] != "rtol"]
    good = [r for r in exact if r["worst"] <= TARGET]
    slow = sorted({r["model"] for r in rows if any("SlowPath" in w for w in r["warnings"])})
    wrong = sorted({f"{r['model']} {r['worst']:.0e}" for r in exact if r["worst"] > TARGET})
    return [
        f"float32 within {TARGET:g}: {len(good)} of {len(exact)} cells; above: {wrong}",
        f"slow path: {slow}; cells that raised: {len(document['errors'])}",
    ]
