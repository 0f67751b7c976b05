"""Processes with a limit of time: whatever hangs or dies takes nothing else with it."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOST = 3  # exit status of a process that the device answers no more
ROOT = Path(__file__).parents[2]
GRACE = 4.0  # seconds from the request to end to the end


def environment(dry: bool) -> dict[str, str]:
    """Of a process that measures: our own sources, products that repeat, kernels as they are."""
    paths = [str(ROOT / part) for part in ("src", "kernels", ".")]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    cache = str(Path(tempfile.gettempdir()) / f"fastgradnorm_triton_{os.getuid()}")
    own = {"TRITON_CACHE_DIR": os.environ.get("TRITON_CACHE_DIR", cache)}
    own |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    own |= {"HF_HUB_OFFLINE": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    if dry:
        own |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
    before = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return before | own


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours."""
    return [sys.executable, "-m", name, *arguments]


@dataclass
class Job:
    """A command, and what became of it.

    Attributes:
        log: What it prints goes there.
        limit: Seconds from its own start.
        status: Its exit status; None while it runs, and where it was ended.
        ended: Whether it ran into its limit.
        seconds: How long it ran.
        retries: How often another process may go on where one lost the device, or crashed.
    """

    name: str
    command: Sequence[str]
    log: Path
    limit: float
    variables: dict[str, str] = field(default_factory=dict)
    retries: int = 0
    status: int | None = None
    ended: bool = False
    seconds: float = 0.0
    _process: subprocess.Popen[bytes] | None = None
    _start: float = 0.0

    def start(self, dry: bool) -> None:
        self._start = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=environment(dry) | self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def running(self) -> bool:
        """Whether it still runs."""
        assert self._process is not None
        self.status = self._process.poll()
        self.seconds = time.monotonic() - self._start
        if self.status is not None:
            self.kill()  # what it started
        return self.status is None

    def interrupt(self) -> None:
        """Asks it to end, as its limit is reached."""
        self.ended = True
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """The process and all that it started."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def output(self) -> str:
        """All that it printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def told(self) -> str:
        """How it ended."""
        if self.ended:
            return f"no end within {self.seconds:.0f} s"
        return f"exit status {self.status}"


def run_all(
    jobs: Sequence[Job],
    at_once: int,
    seconds: float,
    dry: bool,
    done: Callable[[Job], Any] = lambda job: None,
) -> list[Job]:
    """Runs jobs, so many at a time; the ones that could not begin in time come back."""
    waiting, active = list(jobs), list[Job]()
    end = time.monotonic() + seconds
    try:
        while waiting or active:
            while waiting and len(active) < at_once and time.monotonic() < end:
                active.append(waiting.pop(0))
                active[-1].start(dry)
            if not active:
                break
            time.sleep(0.05)
            ended = [job for job in active if not job.running()]
            late = time.monotonic() > end
            over = [j for j in active if j not in ended and (late or j.seconds > j.limit)]
            _end(over)
            for job in ended + over:
                active.remove(job)
                crashed = not job.ended and (job.status == LOST or (job.status or 0) < 0)
                if crashed and job.retries > 0:
                    job.retries -= 1
                    waiting.insert(0, job)
                else:
                    done(job)
    finally:
        for job in active:
            job.kill()
    return waiting


def _end(jobs: Sequence[Job]) -> None:
    """Interrupts all, and kills those that take too long over what is left for them to do."""
    for job in jobs:
        job.interrupt()
    last = time.monotonic() + GRACE
    while time.monotonic() < last and any(job.running() for job in jobs):
        time.sleep(0.05)
    for job in jobs:
        job.kill()
