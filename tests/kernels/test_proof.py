"""What needs the compiler, or kernels planted with faults: each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


def _run(module, *options):
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'kernels'}"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", module, "--check", *options],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("arch", ["80", "90"])
def test_every_block_configuration_compiles(arch):
    # shared memory within the chip's limit, no spills, matrix units, no atomics
    assert ", 0 with problems" in _run("benchmarks.kernels.compiled", "--arch", arch)


def test_planted_faults_are_caught():
    # That all tests pass where nothing is planted, this suite shows.
    assert "1 of 1 unplanted" in _run("benchmarks.kernels.faults", "--per-kernel", "1")
