"""What planting faults takes, whatever they are planted in: an edit, and processes of their own."""

import contextlib
import json
import math
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def replaced(source: str, old: str, new: str, index: int | None = None) -> str:
    """`source` with its `index`-th `old` replaced; without an index there must be exactly one.

    Raises:
        ValueError: If there is no such place.
    """
    parts = source.split(old)
    places = len(parts) - 1
    if places <= (index or 0) or (index is None and places > 1):
        raise ValueError(f"{old!r} stands in {places} places, so that it cannot be replaced.")
    head, tail = parts[: (index or 0) + 1], parts[(index or 0) + 1 :]
    return old.join(head) + new + old.join(tail)


@dataclass(frozen=True)
class Verdict:
    """What tests made of a fault.

    Attributes:
        caught: None: they were stopped from outside before that was decided.
        first_failure: The test; or what else ended the run.
        seconds: By the clock.
    """

    caught: bool | None
    first_failure: str
    seconds: float


class _FirstFailure:
    """Remembers which test failed first."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid


def report_tests(report: Path, arguments: Sequence[str]) -> None:
    """Runs tests up to the first failure, and writes what came of them."""
    import pytest

    first = _FirstFailure()
    code = pytest.main(["-x", "-q", *arguments], plugins=[first])
    report.write_text(json.dumps({"code": int(code), "first": first.name}))


def in_forks(
    runs: Sequence[Callable[[Path], None]], processes: int, limit: float, patience: float = 4.0
) -> Iterator[tuple[int, Verdict]]:
    """Numbers and verdicts of runs as they end, each in a process forked from this one.

    Args:
        runs: Given the path of a report, each writes it by `report_tests`.
        processes: So many at a time.
        limit: Seconds of processor time; a run that takes more is as good as failed, on a busy
            machine too.
        patience: By the clock a run has so many times as long. One that does not end then may have
            waited for others: nothing is decided.

    Raises:
        RuntimeError: If a run ends without a report, or its tests cannot be run.
    """
    import tempfile

    context = multiprocessing.get_context("fork")
    running: dict[int, tuple[Any, Path, float]] = {}
    waiting = list(enumerate(runs))
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < processes:
                index, run = waiting.pop(0)
                report = Path(folder) / f"{index}.json"
                process = context.Process(target=_logged, args=(run, report, limit))
                process.start()
                running[index] = (process, report, time.monotonic())
            for index, (process, report, started) in list(running.items()):
                if not process.is_alive() or time.monotonic() - started > patience * limit:
                    yield index, _verdict(process, report, started, limit)
                    del running[index]
            time.sleep(0.05)


def _logged(run: Callable[[Path], None], report: Path, limit: float) -> None:
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), most))
    log = os.open(report.with_suffix(".log"), os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    run(report)


def _verdict(process: Any, report: Path, started: float, limit: float) -> Verdict:
    seconds = round(time.monotonic() - started, 1)
    if process.is_alive():
        process.kill()
        process.join()
        return Verdict(None, f"no end within {seconds:.0f} s by the clock", seconds)
    if process.exitcode == -signal.SIGXCPU:
        return Verdict(True, f"more than {limit:.0f} s of processor time", seconds)
    if process.exitcode < 0:  # killed: as where memory is short, whoever took it
        caught = None if process.exitcode == -signal.SIGKILL else True
        return Verdict(caught, f"the process died of signal {-process.exitcode}", seconds)
    log = ""
    with contextlib.suppress(OSError):
        log = report.with_suffix(".log").read_text(errors="replace")[-4000:]
    if not report.exists():
        raise RuntimeError(f"a fault could not be planted: {log}")
    result = json.loads(report.read_text())
    # 2: they could not be collected, as where the fault breaks what they import; 5: there are none.
    if result["code"] not in (0, 1, 2, 5) or (result["code"] == 2 and not result["first"]):
        raise RuntimeError(f"pytest could not run the tests: code {result['code']}. {log}")
    return Verdict(result["code"] in (1, 2), result["first"], seconds)
