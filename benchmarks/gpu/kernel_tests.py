"""Part 2: the kernels' tests in every dtype, and compute-sanitizer over one small case each.

A file is a process, and one of many products a process a dtype. What needs much memory runs alone,
after the rest. A file that is cut off still tells what it has found.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu.processes import ROOT, Job, module, run_all
from benchmarks.gpu.report import Report, shortened

FOLDER = ROOT / "tests" / "kernels"
# Test files that take all of the modes of products; each is a process of its own there.
BY_MODE = ("conv_norm", "ghost_norm", "direct_norm", "linear_head")
LAST = ("large_products", "proof")  # of the host alone; `proof` takes minutes and is left out
LARGE = "beyond_32_bits"  # tests of 8 to 17 GB
MODES = {
    "bfloat16": "bfloat16",  # what the interpreter cannot do comes first
    "tf32": "tf32 and not tf32x3",
    "float32": "float32",
    "tf32x3": "tf32x3",
    "float16": "float16 and not bfloat16",
    "rest": "not float32 and not float16 and not tf32",
}
AT_ONCE = 10
SANITIZER_SECONDS = 110


def run(report: Report) -> None:
    """All tests of the kernels; of a dry run, those of one file."""
    with tempfile.TemporaryDirectory() as folder:
        report.document["left_out"] += [job.name for job in _run(report, Path(folder))]
    report.save()


def _run(report: Report, scratch: Path) -> list[Job]:
    jobs = [*_small(scratch), *_tests(scratch, report.left)]
    if report.dry:
        jobs = [*_small(scratch), _pytest(scratch, "backends", "all", f"not {LARGE}", report.left)]

    def take(job: Job) -> None:
        small = job.name in ("small cases", "sanitizer")
        report.add(_sanitized(job) if small else _tested(job, scratch))

    at_once = 2 if report.dry else AT_ONCE
    kept = 2 if report.dry else max(6, min(25, 0.2 * report.left))  # for the large ones
    left = run_all(jobs, at_once, report.left - kept, report.dry, take)
    if not report.dry:
        files = [FOLDER / f"test_{name}.py" for name in _files() if name not in LAST]
        large = _pytest(scratch, "large", "all", LARGE, 40, files)
        left += run_all([large], 1, report.left - 1, False, take)
    return left


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


def _tests(scratch: Path, seconds: float) -> list[Job]:
    jobs = [_pytest(scratch, "engine", "all", f"not {LARGE}", seconds)]
    rest = [name for name in _files() if name not in (*BY_MODE, "engine", *LAST)] + [LAST[0]]
    for mode, expression in MODES.items():
        chosen = f"{expression} and not {LARGE}"
        jobs += [_pytest(scratch, name, mode, chosen, seconds) for name in BY_MODE]
    return jobs + [_pytest(scratch, name, "all", f"not {LARGE}", seconds) for name in rest]


def _files() -> list[str]:
    """What the test files of the kernels are of."""
    return sorted(path.stem.removeprefix("test_") for path in FOLDER.glob("test_*.py"))


def _pytest(
    scratch: Path,
    name: str,
    mode: str,
    expression: str,
    seconds: float,
    files: list[Path] | None = None,
) -> Job:
    title = f"{name}, {mode}"
    stem = scratch / re.sub(r"\W+", "_", title)
    options = ["-q", "-p", "no:cacheprovider", "--tb=short", "-k", expression]
    options += [f"--junitxml={stem}.xml", "-o", "junit_logging=no"]
    options += ["-W", "default"]  # what PyTorch warns of on a device is no fault of a kernel: told
    paths = [str(path) for path in files or [FOLDER / f"test_{name}.py"]]
    # Plugins of others, and what they warn of, are none of the kernels' business.
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", *options, *paths]
    return Job(title, command, stem.with_suffix(".log"), seconds, alone)


def _tested(job: Job, scratch: Path) -> dict[str, Any]:
    """What one process of tests found, from its report where it could still write one."""
    row: dict[str, Any] = {"key": job.name, "told": job.told(), "took": round(job.seconds, 1)}
    path = job.log.with_suffix(".xml")
    if not path.exists():
        return row | {"ok": False, "output": shortened(job.output())}
    failed = {}
    tests = ElementTree.parse(path).getroot().iter("testcase")
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for test in tests:
        found = next((t for t in test if t.tag in ("failure", "error")), None)
        if found is None:
            counts["skipped" if test.find("skipped") is not None else "passed"] += 1
            continue
        counts["failed"] += 1
        failed[f"{test.get('classname')}::{test.get('name')}"] = found.text or found.get("message")
    row |= counts | {"ok": job.status in (0, 5) and not failed}
    if "warnings summary" in job.output():
        row["warnings"] = job.output().partition("warnings summary")[2][:3000]
    row["failures"] = {k: _first_lines(v or "") for k, v in failed.items()}
    if not row["ok"] and not failed:
        row["output"] = shortened(job.output())
    return row


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
    """One line a process."""
    lines = []
    for row in document["rows"]:
        counts = ", ".join(f"{row[k]} {k}" for k in ("passed", "failed", "skipped") if k in row)
        said = counts or row.get("summary", "")
        mark = "ok " if row["ok"] else "BAD"
        lines.append(f"{mark} {row['key']:<28} {said}  {row['told']}, {row['took']} s")
        lines += [f"      {name}" for name in list(row.get("failures", {}))[:6]]
    return lines


def summary(document: dict[str, Any]) -> list[str]:
    """How many tests failed, and the sanitizer's last word."""
    rows = document["rows"]
    failed = sum(row.get("failed", 0) for row in rows)
    passed = sum(row.get("passed", 0) for row in rows)
    bad = [row["key"] for row in rows if not row["ok"]]
    told = [r["summary"] for r in rows if r["key"] == "sanitizer"] or ["not installed"]
    return [f"{passed} passed, {failed} failed; not ok: {bad}", f"sanitizer: {told[0]}"]
