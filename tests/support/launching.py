"""Starts a script of `tests/distributed` in processes of its own; waits, but not for ever."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tests" / "distributed"
PATIENCE = 900  # seconds, for machines that are busy


def launch(launcher, script, *arguments, **variables):
    """Runs `python <launcher> <script> <arguments>`; returns exit code and output."""
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    with subprocess.Popen(
        [
            sys.executable,
            *launcher,
            str(SCRIPTS / script),
            *map(str, arguments),
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        finally:  # also what a launcher leaves behind when it is stopped
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output
