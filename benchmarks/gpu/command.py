"""`python -m benchmarks gpu`: the parts in turn, each in a process and a limit of its own.

What times nothing runs at once, beside the compilation of what is timed next. The files of parts
are written after every step, so that a run that is cut off loses nothing.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import warm
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.processes import Job, module, run_all
from benchmarks.gpu.report import finite
from benchmarks.provenance import RESULTS, provenance

BUDGET = 450.0
WARMING = 45.0  # seconds, where nothing else takes as long
WARMED_AT_ONCE = 4  # beside other parts
FOLDER = RESULTS / "gpu"


def main(
    parts: Sequence[str] | None = None,
    seconds: float = BUDGET,
    folder: Path = FOLDER,
    dry: bool = False,
) -> int:
    """Runs the parts, prints their tables, and last a short summary; 1 if a part did not end well.

    Args:
        parts: By default all.
        seconds: In all.
        folder: Of the files, `gpu_<part>.json` each. Another one where it cannot be written.
        dry: Tiny shapes, on the CPU, kernels interpreted.
    """
    if not dry and not torch.cuda.is_available():
        print(
            "`python -m benchmarks gpu` must be run where PyTorch sees a CUDA device. Got none. "
            "`--dry` tries its code paths on the CPU.",
            file=sys.stderr,
        )
        return 2
    chosen = [name for name in PARTS if (not PARTS[name].asked if parts is None else name in parts)]
    folder = _writable(folder)
    for name in chosen:
        _path(folder, name).unlink(missing_ok=True)
    document: dict[str, Any] = {"provenance": provenance("cpu" if dry else "cuda")}
    document |= {"device": _device() if not dry else "none", "parts": {}, "summary": {}}
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as scratch:
        for names, weight, rest in _stages(chosen):
            limit = (end - time.monotonic()) * weight / (weight + rest)
            if limit < 5:
                document["parts"] |= dict.fromkeys(names, "no time left")
                continue
            _stage(names, chosen, limit, folder, Path(scratch), dry, document)
            _write(folder, document)
    return _finish(document, chosen, folder, seconds - (end - time.monotonic()))


def _stages(chosen: Sequence[str]) -> list[tuple[list[str], float, float]]:
    """Parts that run at once, their share of the time, and that of all after them."""
    untimed = [name for name in chosen if not PARTS[name].timed]
    timed = [name for name in chosen if PARTS[name].timed]
    weights = [PARTS[name].seconds for name in untimed] + ([WARMING] if timed else [])
    stages = [(untimed, max(weights))] if weights else []
    stages += [([name], PARTS[name].seconds) for name in timed]
    return [
        (names, weight, sum(w for _, w in stages[i + 1 :]))
        for i, (names, weight) in enumerate(stages)
    ]


def _stage(
    names: list[str],
    chosen: list[str],
    limit: float,
    folder: Path,
    scratch: Path,
    dry: bool,
    document: dict[str, Any],
) -> None:
    """Runs one stage, then prints its tables."""
    jobs = [_job(name, name, None, _path(folder, name), limit, scratch, dry) for name in names]
    warmed: list[Job] = []
    if not names or not PARTS[names[0]].timed:
        for what in warm.wanted(chosen)[: 1 if dry else None]:
            path = scratch / f"warm_{what.replace(':', '_')}.json"
            warmed.append(_job(what, "warm", what, path, limit, scratch, dry))
    alone = max(WARMED_AT_ONCE, (os.cpu_count() or 1) - 2)
    at_once = len(jobs) + (1 if dry else WARMED_AT_ONCE if jobs else alone)
    start = time.monotonic()
    left = run_all([*jobs, *warmed], at_once, limit, dry)
    took = round(time.monotonic() - start, 1)
    document.setdefault("stages", []).append({"parts": names, "took": took, "limit": limit})
    said = {job.name: job.told() for job in warmed if job not in left and job.status != 0}
    if warmed:
        document["warming"] = {"took": took, "failed": said, "left": [job.name for job in left]}
    for job in jobs:
        document["parts"][job.name] = job.told()
        if job.status != 0:
            document.setdefault("logs", {})[job.name] = job.output()[-6000:]
        _show(job, folder, document)


def _job(
    name: str, part: str, only: str | None, path: Path, limit: float, scratch: Path, dry: bool
) -> Job:
    options = ["--out", str(path), "--seconds", f"{max(2.0, limit - 8):.1f}"]
    options += [] if only is None else ["--only", only]
    options += ["--dry"] if dry else []
    command = module("benchmarks.gpu.child", part, *options)
    log = scratch / f"{name.replace(':', '_')}.log"
    return Job(name, command, log, limit, retries=0 if part == "warm" else 3)


def _path(folder: Path, name: str) -> Path:
    return folder / f"gpu_{name}.json"


def _show(job: Job, folder: Path, document: dict[str, Any]) -> None:
    """Prints one part's table, and keeps its summary."""
    print(f"\n== {job.name}: {job.told()}, {job.seconds:.0f} s")
    path = _path(folder, job.name)
    if not path.exists():
        print(job.output()[-3000:])
        document["summary"][job.name] = ["no result"]
        return
    found = json.loads(path.read_text()) | {"provenance": document["provenance"]}
    path.write_text(_text(found))
    part = PARTS[job.name].module
    try:
        print("\n".join(part.table(found)))
        document["summary"][job.name] = part.summary(found)
    except Exception as error:  # a half-filled row must not cost the others
        document["summary"][job.name] = [f"no summary: {error!r}"]
        print(f"no table: {error!r}")
    for key, text in found["errors"].items():
        last = text.strip().splitlines()[-1] if text.strip() else ""
        print(f"RAISED in {key}: {last[:300]}")
    if found["left_out"]:
        print(f"LEFT OUT for time: {found['left_out'][:40]}")
    if job.status != 0:
        print(job.output()[-1500:])
    sys.stdout.flush()


def _finish(document: dict[str, Any], chosen: list[str], folder: Path, took: float) -> int:
    document["seconds"] = round(took, 1)
    _write(folder, document)
    print(f"\n== summary, {took:.0f} s, written to {folder}")
    for name in chosen:
        for line in document["summary"].get(name, [document["parts"].get(name, "not run")]):
            print(f"{name}: {line[:400]}")
    return int(any(document["parts"].get(name) != "exit status 0" for name in chosen))


def _write(folder: Path, document: dict[str, Any]) -> None:
    (folder / "gpu_summary.json").write_text(_text(document))


def _text(document: dict[str, Any]) -> str:
    return json.dumps(finite(document), indent=1, ensure_ascii=False) + "\n"


def _writable(folder: Path) -> Path:
    """The folder, or one for temporary files where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        other = Path(tempfile.mkdtemp(prefix="gpu_results_"))
        print(f"{folder} cannot be written ({error}): results go to {other}", file=sys.stderr)
        return other
    return folder


def _device() -> dict[str, Any]:
    """What the driver says of the device: names, clocks, temperature, other users' work."""
    found: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # only a fact for the file
        properties = torch.cuda.get_device_properties(0)
        found |= {"name": properties.name, "memory": properties.total_memory}
        found["processors"] = properties.multi_processor_count
        found["cudnn"] = torch.backends.cudnn.version()
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        fields = "driver_version,compute_mode,clocks.sm,clocks.max.sm,power.draw,power.limit"
        fields += ",temperature.gpu,utilization.gpu"
        query = [tool, f"--query-gpu={fields}", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            said = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
            found[fields] = said.stdout.strip()
    return found
