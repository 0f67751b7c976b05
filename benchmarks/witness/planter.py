"""Plants faults in copies of the source tree and runs the tests that should see them.

    python -m benchmarks.witness.planter --out results/witness.json

A process of its own, which has not imported the package: each fault's run is forked from it, with
PyTorch there already, and imports the package from the copy with the fault.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import planting
from benchmarks.witness.fault import ROOT, Fault
from benchmarks.witness.fault_list import FAULTS
from benchmarks.witness.mapping import paths_of
from benchmarks.witness.record import Record

# Which tests are run, and for how many seconds of processor time: more is as good as failed.
STAGES = {"quick": 400, "slow": 1200, "whole": 7200}
_PRELOADED = ("torch.func", "numpy", "pytest", "hypothesis", "triton.language", "sympy")
_PRELOADED += ("jaxtyping", "tqdm.auto", "torch.fx.experimental.symbolic_shapes", "torch.testing")
_PYTEST = ("-n", "0", "-p", "no:cacheprovider", "-p", "no:benchmark", "--no-header", "--tb=short")
_PYTEST += ("-W", "ignore:Module already imported")


def copied(fault: Fault, folder: Path) -> Path:
    """The repository's files in a folder, with a fault."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for top in sorted({name.partition("/")[0] for name in listed.stdout.splitlines()}):
        if (ROOT / top).is_dir():  # with what is compiled: it fits the files' times and sizes
            shutil.copytree(ROOT / top, folder / top, symlinks=True)
        elif (ROOT / top).is_file():
            shutil.copy2(ROOT / top, folder / top)
    (folder / fault.path).write_text(fault.planted())
    return folder


def enter(folder: Path) -> None:
    """From now on this process imports the package from a copy.

    Raises:
        RuntimeError: If it would be imported from elsewhere.
    """
    os.chdir(folder)
    paths = [str(folder / "src"), str(folder / "kernels"), str(folder)]
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    found = importlib.util.find_spec("fastgradnorm")
    if found is None or not str(found.origin).startswith(str(folder)):
        raise RuntimeError(f"fastgradnorm is imported from {found and found.origin}.")


def _run(fault: Fault, stage: str, report: Path) -> None:
    marked = {"quick": ["-m", "not slow"], "slow": ["-m", "slow"], "whole": []}[stage]
    tests = ["tests"] if stage == "whole" else paths_of(fault)
    with tempfile.TemporaryDirectory() as folder:
        enter(copied(fault, Path(folder)))
        planting.report_tests(report, [*_PYTEST, f"--rootdir={folder}", *marked, *tests])


def preload() -> None:
    """What every run imports, and none changes."""
    os.environ["TRITON_INTERPRET"] = "1"  # as in the tests, before Triton is imported
    for name in _PRELOADED:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


def plant(record: Record, faults: Sequence[Fault], stage: str, processes: int) -> None:
    """Runs tests with each fault, and keeps what came of them as they end."""
    runs = [partial(_run, fault, stage) for fault in faults]
    for index, verdict in planting.in_forks(runs, processes, STAGES[stage]):
        record.judged(faults[index], verdict, stage)
        state = {True: "caught", False: "SURVIVES", None: "stopped"}[verdict.caught]
        print(f"{state:9s}{verdict.seconds:6.0f} s  {faults[index].name}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.witness.planter")
    parser.add_argument("--out", type=Path, required=True, help="results, read and written")
    parser.add_argument("--only", default="", help="faults with this in their file or text")
    parser.add_argument("--again", action="store_true", help="also those that survived this stage")
    parser.add_argument("--stage", choices=STAGES, default="quick")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(argv)
    record = Record(options.out, FAULTS)
    chosen = [fault for fault in FAULTS if options.only in fault.name]
    waiting = [fault for fault in chosen if record.waits(fault, options.stage, options.again)]
    preload()
    plant(record, waiting, options.stage, options.processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
