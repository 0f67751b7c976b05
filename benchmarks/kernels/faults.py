"""Plants faults in the kernels, one at a time, and shows that the tests catch every one.

    python -m benchmarks.kernels.faults            # writes results/kernel_faults.json
    python -m benchmarks.kernels.faults --check    # the same, writes nothing

A fault is a small edit of the kind that people make: a mask dropped, a bound off by one, a term
left out, a stride swapped. It is planted in a temporary copy of one kernel file, which takes the
place of the module in a process of its own; that kernel's tests are run there and must fail. The
copy without a fault must pass them. Kernels are interpreted: no GPU is needed.
"""

import argparse
import contextlib
import gc
import importlib
import io
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported

import pytest
from fastgradnorm_kernels import functorch

from benchmarks import planting
from benchmarks.kernels.fault_list import FAULTS, ROOT, Fault
from benchmarks.provenance import provenance, store

_SECONDS = 240  # a run that takes longer is as good as failed
# Which modules must be made again after one is changed, and which tests look at it.
_DEPENDENTS = {
    "_math": ["head_stream", "logit_head"],
    "head_stream": ["logit_head"],
    "_addresses": ["_tile_gradients", "direct_norm"],
    "_tile_gradients": ["direct_norm"],
    "_grams": ["ghost_norm"],
    "checked_norm": ["conv_norm"],
}
_TESTS = {
    "_math": ["logit_head"],
    "logit_head": ["logit_head"],
    "head_stream": ["logit_head"],
    "_addresses": ["conv_norm"],
    "windows": ["windows", "conv_norm", "direct_norm"],
    "gradients": ["gradients", "direct_norm", "conv_norm"],
    "_grams": ["ghost_norm", "conv_norm"],
    "ghost_norm": ["ghost_norm", "conv_norm"],
    "direct_norm": ["direct_norm", "conv_norm"],
    "_tile_gradients": ["direct_norm", "conv_norm"],
    "conv_norm": ["conv_norm"],
    "checked_norm": ["checked_norm", "conv_norm"],
    "affine_norm": ["affine_norm"],
    "bucket_sums": ["bucket_sums"],
    "scaled": ["scaled"],
    "embedding_norm": ["embedding_norm"],
    "exact_convolution": ["exact_convolution"],
    "exact_plans": ["exact_convolution"],
    "half_parts": ["exact_convolution"],
}


_PYTEST = ["-p", "no:cacheprovider", "--no-header", "--tb=line", f"--rootdir={ROOT}"]
_PYTEST += ["-W", "ignore:Module already imported"]


@dataclass
class Outcome:
    """What the tests made of a fault."""

    fault: Fault
    caught: bool
    first_failure: str
    seconds: float


def _replace(module: str, source: str, folder: str) -> None:
    """Executes another source in place of the module's own."""
    path = Path(folder) / f"{module}_{os.getpid()}.py"
    path.write_text(source)
    target = importlib.import_module(f"fastgradnorm_kernels.{module}")
    exec(compile(source, str(path), "exec"), target.__dict__)


def _test_files(module: str) -> list[str]:
    return [str(ROOT / "tests" / "kernels" / f"test_{name}.py") for name in _TESTS[module]]


def _run(fault: Fault, folder: str, report: Path) -> None:
    """In a process of its own: plants, runs the tests, writes what came of it."""
    _replace(fault.module, fault.planted(), folder)
    for module in _DEPENDENTS.get(fault.module, []):
        own = ROOT / "kernels" / "fastgradnorm_kernels" / f"{module}.py"
        _replace(module, own.read_text(), folder)
    files = _test_files(fault.module)
    if fault.seen_by:
        planting.report_tests(report, [*_PYTEST, "-k", fault.seen_by, *files])
        if json.loads(report.read_text())["code"] == 1:
            return
    planting.report_tests(report, [*_PYTEST, *files])


def plant(faults: list[Fault], processes: int) -> list[Outcome]:
    """Each fault's outcome, in order."""
    for module in _TESTS:
        importlib.import_module(f"fastgradnorm_kernels.{module}")  # before the forks, once for all
    with contextlib.redirect_stdout(io.StringIO()):  # so that no fork imports the tests by itself
        files = (f for m in _TESTS for f in _test_files(m))
        pytest.main(["--collect-only", "-q", *_PYTEST, *files])
    functorch.works()  # brings a second's worth of imports, which every fork would make by itself
    gc.freeze()  # no fork looks through what all of them have
    with tempfile.TemporaryDirectory() as folder:
        runs = [partial(_run, fault, folder) for fault in faults]
        verdicts = dict(planting.in_forks(runs, processes, _SECONDS))
    return [
        Outcome(fault, bool(verdicts[i].caught), verdicts[i].first_failure, verdicts[i].seconds)
        for i, fault in enumerate(faults)
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels.faults")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--module", choices=list(_TESTS), help="only this kernel file")
    parser.add_argument(
        "--per-kernel",
        type=int,
        help="at most so many faults a kernel, and one copy without a fault",
    )
    options = parser.parse_args(argv)
    modules = [options.module] if options.module else list(_TESTS)
    chosen = [fault for fault in FAULTS if fault.module in modules]
    if options.per_kernel:
        seen: dict[str, int] = {}
        for fault in list(chosen):
            kernel = "_math" if fault.module == "_math" else fault.kernel
            seen[kernel] = seen.get(kernel, 0) + 1
            if seen[kernel] > options.per_kernel:
                chosen.remove(fault)
    unplanted = modules if not options.per_kernel or options.module else ["scaled"]
    clean = [Fault(module, "all", "none", '"""', '"""') for module in unplanted]
    started = time.monotonic()
    outcomes = plant(clean + chosen, options.processes)
    broken = [o for o in outcomes[: len(clean)] if o.caught]
    missed = [o for o in outcomes[len(clean) :] if not o.caught]
    for outcome in broken:
        print(f"{outcome.fault.module} without a fault FAILS: {outcome.first_failure}")
    for outcome in missed:
        print(f"MISSED: {outcome.fault}")
    seconds = time.monotonic() - started
    print(
        f"{len(chosen) - len(missed)} of {len(chosen)} faults caught, "
        f"{len(clean) - len(broken)} of {len(clean)} unplanted copies pass, {seconds:.0f} s"
    )
    if not options.check:
        document = {
            "provenance": provenance(),
            "faults": len(chosen),
            "caught": len(chosen) - len(missed),
            "unplanted_copies_pass": not broken,
            "seconds": round(seconds),
            "rows": [asdict(outcome) for outcome in outcomes[len(clean) :]],
        }
        print(f"written: {store('kernel_faults', document)}")
    return 1 if missed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
