"""The kernels' tests and the memory checker, on the GPU of this machine."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
# Test files, and the operation that is not timed where they fail.
TESTS = {
    "logit_head": "head_scores",
    "linear_head": "linear_head_scores",
    "ghost_norm": "ghost_sq_norm",
    "direct_norm": "direct_sq_norm",
    "conv_norm": "conv_sq_norm",
    "affine_norm": "affine_sq_norm",
    "embedding_norm": "embedding_sq_norm",
    "dispatch": "",
}


def _environment() -> dict[str, str]:
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'kernels'}{os.pathsep}{ROOT}"
    return os.environ | {"PYTHONPATH": paths, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def run_tests(seconds: float) -> dict[str, dict[str, Any]]:
    """Runs each kernel's tests in a process of its own, all at once."""
    started = {}
    for name in TESTS:
        path = ROOT / "tests" / "kernels" / f"test_{name}.py"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
        started[name] = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    deadline = time.monotonic() + seconds
    results = {}
    for name, process in started.items():
        try:
            output, _ = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
            lines = output.strip().splitlines()
        except subprocess.TimeoutExpired:
            process.kill()
            lines = [f"no end within {seconds:.0f} s"]
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        last = lines[-1] if lines else "no output"
        results[name] = {"passed": process.returncode == 0, "last": last, "failed": failed[:10]}
        print(f"tests of {name}: {last}")
    return results


def run_sanitizer(seconds: float) -> str:
    """What compute-sanitizer says of one small case a kernel, or why it did not run."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return "not run: compute-sanitizer is not installed"
    command = [tool, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.kernels.gpu"]
    environment = _environment() | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        run = subprocess.run(
            [*command, "--small-cases"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {seconds:.0f} s"
    summary = [line for line in run.stdout.splitlines() if "ERROR SUMMARY" in line]
    return summary[-1].strip("= ") if summary else f"exit code {run.returncode}"
