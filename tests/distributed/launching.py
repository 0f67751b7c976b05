"""Starts a script of this folder in processes of its own, and waits for it, but not for ever."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PATIENCE = 300  # seconds, for machines that are busy


def launch(launcher, script, *arguments, **variables):
    """Runs `python <launcher> <script> <arguments>`; returns exit code and output."""
    paths = [str(HERE), str(HERE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    done = subprocess.run(
        [sys.executable, *launcher, str(HERE / script), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout
