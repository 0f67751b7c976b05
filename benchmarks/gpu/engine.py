"""Part 1: the engine's scores beside plain autograd in float64, each model in a process of its own.

Errors are relative, the largest over the samples; float32 is PyTorch as it is out of the box. What
makes a model slow, or fail, is told in PyTorch's own words, and where a pass waits for the device.
"""

import copy
import itertools
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.cases import move
from benchmarks.gpu import precision
from benchmarks.gpu.engine_models import Subject, subjects
from benchmarks.gpu.precision import Mode
from benchmarks.gpu.processes import Job, module, run_all
from benchmarks.gpu.reference import checked_on_cpu, compared, scores
from benchmarks.gpu.report import Report
from benchmarks.gpu.syncs import places
from fastgradnorm import GradNormScorer

TARGET = 1e-5  # of float32
AT_ONCE = 7
SAMPLES = 16
RTOL = 0.05


def run(report: Report) -> None:
    """Every model in a process of its own, which fills a file of its own; their rows are joined."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = [_job(name, Path(folder), report) for name in subjects(report.dry)]

        def take(job: Job) -> None:
            part = Report(job.log.with_suffix(".json"), 0, report.dry).document
            report.document["rows"] += part["rows"]
            report.document["errors"] |= part["errors"]
            report.document["left_out"] += part["left_out"]
            if job.status != 0:
                said = f"{job.told()}\n{job.output()[-3000:]}"
                report.document["errors"][job.name] = said
            report.save()

        at_once = 2 if report.dry else AT_ONCE
        left = run_all(jobs, at_once, report.left - 2, report.dry, take)
    report.document["left_out"] += [job.name for job in left]
    report.save()


def _job(name: str, folder: Path, report: Report) -> Job:
    path = folder / f"{name}.json"
    command = module(
        "benchmarks.gpu.child",
        *("engine_model", "--only", name, "--out", str(path)),
        *("--seconds", f"{report.left - 8:.0f}", *(["--dry"] if report.dry else [])),
    )
    return Job(name, command, path.with_suffix(".log"), report.left - 2, retries=3)


def run_model(report: Report, name: str) -> None:
    """All cells of one model, the most telling first."""
    subject = subjects(report.dry)[name]
    model, batch = subject.make(2 if report.dry else SAMPLES, report.dry)
    model, batch = model.to(report.device), move(batch, report.device)
    exact: dict[str, Any] = {}
    for params in ("all", "last_layer"):
        with report.step(f"{name}, float64, {params}") as row:
            how = {
                "head": subject.head if params == "last_layer" else None,
                "dense": subject.dense,
                "cudnn": subject.cudnn,
                "device": report.device,
            }
            exact[params] = scores(model, batch, **how)
            row["cpu_difference"] = checked_on_cpu(model, batch, exact[params], **how)
    wrong = False
    cells = _cells()
    if report.dry and name != "mlp":  # the interpreter takes long, and has been through it
        cells = [cell for cell in cells if cell[0] == "auto"]
    for backend, mode, params in cells:
        key = f"{name}, {backend}, {mode.name}, {params}"
        known = params in exact or ("all" in exact and params in ("rtol", "verify"))
        if known and report.wanted(key, 3):
            found = _cell(report, key, subject, (model, batch), (backend, mode, params), exact)
            exactly = mode == precision.FLOAT32 and params != "rtol"
            wrong |= exactly and found.get("worst", 0.0) > TARGET
    if wrong:  # whose fault it is
        for backend in ("auto", "triton"):
            cell = (backend, precision.IEEE, "all")
            key = f"{name}, {backend}, {precision.IEEE.name}, all"
            _cell(report, key, subject, (model, batch), cell, exact)
    for backend, mode in _watched()[: 1 if report.dry else None]:
        key = f"{name}, {backend}, {mode.name}, syncs"
        if report.wanted(key, 3):
            with report.step(key) as row, mode.set():
                row |= _syncs(model, batch, report, backend, mode, subject)
    for backend in ("auto",) if report.dry else ("auto", "triton"):
        cell = (backend, precision.TF32_NEW, "all")
        key = f"{name}, {backend}, {precision.TF32_NEW.name}, all"
        if report.wanted(key, 3):
            _cell(report, key, subject, (model, batch), cell, exact)


def _cells() -> list[tuple[str, Mode, str]]:
    cells = itertools.product(
        ("all", "last_layer"),
        (precision.FLOAT32, precision.BF16, precision.TF32),
        ("auto", "triton"),
    )
    found = [(backend, mode, params) for params, mode, backend in cells]
    rtol = [(backend, precision.FLOAT32, "rtol") for backend in ("auto", "triton")]
    return [*found, *rtol, ("auto", precision.BF16, "rtol"), ("auto", precision.FLOAT32, "verify")]


def _watched() -> list[tuple[str, Mode]]:
    return [
        ("auto", precision.FLOAT32),
        ("auto", precision.BF16),
        ("triton", precision.FLOAT32),
    ]


def _cell(
    report: Report,
    key: str,
    subject: Subject,
    given: tuple[Any, Any],
    cell: tuple[str, Mode, str],
    exact: dict[str, Any],
) -> dict[str, Any]:
    """Scores of one way to ask for them, held against the exact ones."""
    backend, mode, what = cell
    model, batch = given
    options: dict[str, Any] = {"verify": what == "verify"}
    if what == "last_layer":
        options["params"] = what
    if what == "rtol":
        options |= {"rtol": RTOL, "scheme": "expected"}
    right = exact["last_layer" if what == "last_layer" else "all"]
    if what == "rtol":
        right = {k: v for k, v in right.items() if k == "expected"}
    with report.step(key) as row, warnings.catch_warnings(record=True) as told, mode.set():
        row |= {"model": subject.name, "backend": backend, "mode": mode.name, "params": what}
        if not right:
            row["nothing"] = "drawn scores have no exact value"
            return row
        warnings.simplefilter("always")
        options = {"scheme": tuple(right)} | options | {"backend": backend, "progress": False}
        scorer = GradNormScorer(copy.deepcopy(model), autocast=mode.autocast, **options)
        start = time.perf_counter()
        try:
            found = scorer.score([batch])
        finally:
            row["seconds"] = time.perf_counter() - start
            row["warnings"] = sorted({f"{w.category.__name__}: {w.message}"[:400] for w in told})
        found = {"expected": found} if what == "rtol" else found
        row["schemes"] = {k: compared(found[k].values, right[k]) for k in right}
        row["worst"] = max(each["error"] for each in row["schemes"].values())
    return row


def _syncs(
    model: Any, batch: Any, report: Report, backend: str, mode: Mode, subject: Subject
) -> dict[str, Any]:
    """Where the second batch of a pool waits; the first one makes the plan."""
    scorer = GradNormScorer(
        model,
        scheme="entropy" if subject.dense else ("expected", "entropy"),
        backend=backend,
        autocast=mode.autocast,
        verify=False,
        progress=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = scorer.stream(itertools.repeat(batch))
        next(scores)
        next(scores)
    found = places(lambda: next(scores), cuda=not report.dry)
    return {"model": subject.name, "syncs": sum(found.values()), "places": found}


def table(document: dict[str, Any]) -> list[str]:
    """One line a model and way to ask: errors, and what is wrong."""
    lines = []
    for row in document["rows"]:
        if "schemes" in row:
            errors = " ".join(
                f"{k} {v['error']:.1e} (ranks {v['ranks']:.3f})" for k, v in row["schemes"].items()
            )
            slow = "; ".join(w[-150:] for w in row["warnings"])
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
