"""Part 2: the kernels' tests in every dtype, and compute-sanitizer over one small case each.

Triton's compiler takes nearly all of the time, so that all cores run tests: pytest-xdist hands them
out, and whoever is done takes over from others. What needs much memory runs last, in turns. A run
that is cut off still tells what it has found.
"""

import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu.processes import ROOT, Job, module, run_all
from benchmarks.gpu.report import Report, shortened

FOLDER = ROOT / "tests" / "kernels"
# What compiles longest begins first.
FIRST = ("engine", "linear_head", "conv_norm", "ghost_norm", "direct_norm", "dispatch")
LEFT_OUT = ("proof",)  # of the host alone, and takes minutes
LARGE = "beyond_32_bits"  # tests of 8 to 17 GB
LARGE_AT_ONCE = 3  # they take turns with the memory; others compile meanwhile
SANITIZER_SECONDS = 150
SLOWEST = 25
# `[gw3] [ 10%] PASSED tests/kernels/test_scaled.py::test_one[a b]`, and without workers
_TOLD = re.compile(
    r"^(?:\[gw\d+\] \[ *\d+%\] (?P<word>[A-Z]+) (?P<test>\S+::.*?)"
    r"|(?P<alone>\S+::.*?) (?P<said>PASSED|FAILED|ERROR|SKIPPED)(?: \(.*?\))?(?: +\[ *\d+%\])?) *$",
    re.MULTILINE,
)


def run(report: Report) -> None:
    """All tests of the kernels; of a dry run, those of one file."""
    with tempfile.TemporaryDirectory() as folder:
        report.document["left_out"] += [job.name for job in _run(report, Path(folder))]
    report.save()


def _run(report: Report, scratch: Path) -> list[Job]:
    names = ["backends"] if report.dry else _files()
    workers = 1 if report.dry else max(1, (os.cpu_count() or 1) - 1)
    kept = 2 if report.dry else max(8, min(35, 0.15 * report.left))  # for the large ones
    seconds = report.left - kept
    tests = _pytest(scratch, "tests", f"not {LARGE}", seconds, _paths(names), workers)

    def take(job: Job) -> None:
        if job.name in ("small cases", "sanitizer"):
            report.add(_sanitized(job))
        else:
            for row in _tested(job):
                report.add(row)

    small = _small(scratch)
    left = run_all([tests, *small], 1 + len(small), seconds, report.dry, take)
    if not report.dry:
        paths = _paths(names)
        large = _pytest(scratch, "large tests", LARGE, report.left - 3, paths, LARGE_AT_ONCE)
        left += run_all([large], 1, report.left - 1, False, take)
    return left


def _files() -> list[str]:
    """What the test files of the kernels are of, in their order."""
    found = sorted(path.stem.removeprefix("test_") for path in FOLDER.glob("test_*.py"))
    return [*FIRST, *(name for name in found if name not in (*FIRST, *LEFT_OUT))]


def _paths(names: list[str]) -> list[Path]:
    return [FOLDER / f"test_{name}.py" for name in names]


def _small(scratch: Path) -> list[Job]:
    command = module("benchmarks.gpu.small_cases")
    found = [Job("small cases", command, scratch / "small.log", SANITIZER_SECONDS)]
    tool = shutil.which("compute-sanitizer") or _toolkit("compute-sanitizer")
    if tool is not None:
        watched = [tool, "--error-exitcode", "9", "--print-limit", "5", *command]
        uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        log = scratch / "sanitizer.log"
        found.insert(0, Job("sanitizer", watched, log, SANITIZER_SECONDS, uncached))
    return found


def _toolkit(name: str) -> str | None:
    """A tool of a CUDA toolkit that is not on the path."""
    places = sorted(Path("/usr/local").glob(f"cuda*/**/{name}"), reverse=True)
    return next((str(path) for path in places if path.is_file()), None)


def _pytest(
    scratch: Path, name: str, expression: str, seconds: float, files: list[Path], workers: int
) -> Job:
    stem = scratch / re.sub(r"\W+", "_", name)
    options = ["-v", "-p", "no:cacheprovider", "--tb=short", "-k", expression]
    options += [f"--junitxml={stem}.xml", "-o", "junit_logging=no"]
    options += ["-W", "default"]  # what PyTorch warns of on a device is no fault of a kernel: told
    if workers > 1 and importlib.util.find_spec("xdist") is not None:
        options += ["-p", "xdist.plugin", "-n", str(workers), "--dist", "worksteal"]
    # Plugins of others, and what they warn of, are none of the kernels' business.
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *options, *map(str, files)]
    return Job(name, command, stem.with_suffix(".log"), seconds, alone)


def _tested(job: Job) -> list[dict[str, Any]]:
    """What one run found, a row a file, and last a row of the whole."""
    path, output = job.log.with_suffix(".xml"), job.output()
    found = _from_report(path) if path.exists() else _from_log(output)
    rows: dict[str, dict[str, Any]] = {}
    for test in found:
        empty = {"passed": 0, "failed": 0, "skipped": 0, "took": 0.0, "failures": {}}
        row = rows.setdefault(test["file"], {"key": f"{job.name}: {test['file']}", **empty})
        row[test["outcome"]] += 1
        row["took"] = round(row["took"] + test["seconds"], 1)
        if test["outcome"] == "failed":
            row["failures"][test["name"]] = _first_lines(test["text"])
    for row in rows.values():
        row["ok"] = not row["failed"]
    counts = Counter(test["outcome"] for test in found)
    whole: dict[str, Any] = {"key": job.name, "told": job.told(), "took": round(job.seconds, 1)}
    items = re.findall(r"workers? \[(\d+) items?\]|(\d+) selected|collected (\d+) items?", output)
    whole["collected"] = max((int(n) for group in items[-1:] for n in group if n), default=0)
    whole["not_run"] = max(0, whole["collected"] - counts.total())
    whole["ok"] = job.status in (0, 5) and not counts["failed"]
    slow = sorted(found, key=lambda test: -test["seconds"])[:SLOWEST]
    whole["slowest"] = {f"{t['file']}::{t['name']}": round(t["seconds"], 1) for t in slow}
    if "warnings summary" in output:
        whole["warnings"] = output.partition("warnings summary")[2][:3000]
    if not whole["ok"] and not counts["failed"]:
        whole["output"] = shortened(output)
    return [*rows.values(), whole]


def _from_report(path: Path) -> list[dict[str, Any]]:
    """Every test of a JUnit report: file, name, outcome, seconds and why it failed."""
    found = []
    for test in ElementTree.parse(path).getroot().iter("testcase"):
        if test.get("name") is None:  # it ran when the run was cut off
            continue
        bad = next((t for t in test if t.tag in ("failure", "error")), None)
        good = "skipped" if test.find("skipped") is not None else "passed"
        found.append(
            {
                "file": (test.get("classname") or "").split(".")[-1].removeprefix("test_"),
                "name": test.get("name"),
                "outcome": good if bad is None else "failed",
                "seconds": float(test.get("time") or 0),
                "text": "" if bad is None else bad.text or bad.get("message") or "",
            }
        )
    return found


def _from_log(output: str) -> list[dict[str, Any]]:
    """The same, less times and reasons, of a run that could not write its report."""
    words = {"PASSED": "passed", "SKIPPED": "skipped", "FAILED": "failed", "ERROR": "failed"}
    found = []
    for match in _TOLD.finditer(output):
        word, test = match["word"] or match["said"], match["test"] or match["alone"]
        if word in words:
            file, _, name = test.partition("::")
            stem = Path(file).stem.removeprefix("test_")
            row = {"file": stem, "name": name, "outcome": words[word]}
            found.append(row | {"seconds": 0.0, "text": "see the log"})
    return found


def _first_lines(text: str) -> str:
    return "\n".join(line[:300] for line in text.splitlines()[:40])


def _sanitized(job: Job) -> dict[str, Any]:
    """What compute-sanitizer, or the plain process, says of the small cases."""
    lines = [line for line in job.output().splitlines() if "Host Frame" not in line]
    told = [line.strip("= ") for line in lines if "ERROR SUMMARY" in line]
    row = {"key": job.name, "told": job.told(), "took": round(job.seconds, 1)}
    row |= {"ok": job.status == 0, "summary": told[-1] if told else job.told()}
    if not row["ok"]:
        row["output"] = "\n".join(line[:300] for line in lines[:120])
    return row


def table(document: dict[str, Any]) -> list[str]:
    """One line a file."""
    lines = []
    for row in document["rows"]:
        names = ("passed", "failed", "skipped", "collected", "not_run")
        counts = ", ".join(f"{row[k]} {k.replace('_', ' ')}" for k in names if k in row)
        said = [counts or row.get("summary", ""), row.get("told"), f"{row['took']} s"]
        mark = "ok " if row["ok"] else "BAD"
        lines.append(f"{mark} {row['key']:<28} {', '.join(filter(None, said))}")
        lines += [f"      {name}" for name in list(row.get("failures", {}))[:6]]
        slow = list(row.get("slowest", {}).items())[:8]
        lines += [f"      {took} s {name}" for name, took in slow if took > 1]
    return lines


def summary(document: dict[str, Any]) -> list[str]:
    """How many tests failed, how many were not run, and the sanitizer's last word."""
    rows = document["rows"]
    failed, passed, cut = (
        sum(row.get(key, 0) for row in rows) for key in ("failed", "passed", "not_run")
    )
    bad = [row["key"] for row in rows if not row["ok"]]
    told = [r["summary"] for r in rows if r["key"] == "sanitizer"] or ["not installed"]
    return [
        f"{passed} passed, {failed} failed, {cut} not run; not ok: {bad}",
        f"sanitizer: {told[0]}",
    ]
