"""Plants faults in the kernels, one at a time, and shows that the tests catch every one.

    python -m benchmarks.kernels.faults            # writes results/kernel_faults.json
    python -m benchmarks.kernels.faults --check    # the same, writes nothing

A fault is a small edit of the kind that people make: a mask dropped, a bound off by one, a term left
out, a stride swapped. It is planted in a temporary copy of one kernel file, which takes the place of the
module in a process of its own; that kernel's tests are run there and must fail. The copy without a fault
must pass them. Kernels are interpreted: no GPU is needed.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported

import pytest

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "kernel_faults.json"
_SECONDS = 240  # a run that takes longer is as good as failed
# Which modules must be made again after one is changed, and which tests look at it.
_DEPENDENTS = {"ghost_norm": ["conv_norm"], "_math": ["logit_head", "linear_head"]}
_TESTS = {
    "_math": ["logit_head", "linear_head"],
    "logit_head": ["logit_head"],
    "linear_head": ["linear_head"],
    "ghost_norm": ["ghost_norm"],
    "direct_norm": ["direct_norm"],
    "conv_norm": ["conv_norm"],
    "affine_norm": ["affine_norm"],
    "embedding_norm": ["embedding_norm"],
}


@dataclass(frozen=True)
class Fault:
    """One edit: the `index`-th place where `old` stands becomes `new`."""

    module: str
    kernel: str
    kind: str
    old: str
    new: str
    index: int = 0

    def planted(self) -> str:
        """The module's source with this fault."""
        source = (ROOT / "kernels" / "fastgradnorm_kernels" / f"{self.module}.py").read_text()
        parts = source.split(self.old)
        assert len(parts) > self.index + 1, f"{self.module} has no {self.old!r} #{self.index}"
        head, tail = parts[: self.index + 1], parts[self.index + 1 :]
        return self.old.join(head) + self.new + self.old.join(tail)


@dataclass
class Outcome:
    """What the tests made of a fault."""

    fault: Fault
    caught: bool
    first_failure: str
    seconds: float


_TILE, _SWEEP = "_head_scores_kernel", "_head_scores_sweep_kernel"
_STATE, _SUMS = "_linear_head_state_kernel", "_linear_head_scores_kernel"
_GHOST, _DIRECT = "_ghost_sq_norm_kernel", "_direct_sq_norm_kernel"
_CONV_DIRECT, _CONV_GHOST = "_conv_direct_kernel", "_conv_ghost_kernel"
_AFFINE, _EMBEDDING = "_affine_sq_norm_kernel", "_embedding_sq_norm_kernel"

FAULTS = [
    Fault("_math", "exp", "drop term", "whole + whole * (lost * LN_2)", "whole * LN_2"),
    Fault("_math", "merge", "drop term", "o_t * o_f + l_f", "o_t * o_f"),
    Fault("_math", "merge", "drop shift", "(tv + t * d) * f", "tv * f"),
    Fault("_math", "merge", "flip comparison", "o_top > top, o_index", "o_top < top, o_index"),
    Fault("_math", "merge", "drop square", "t2 * f * f", "t2 * f"),
    Fault("_math", "tile_state", "flip mask", "!= column[:, None]", "== column[:, None]"),
    Fault("_math", "tile_state", "off by one", "+ tl.min(classes, 0)", "+ tl.min(classes, 0) + 1"),
    Fault("_math", "finite", "drop guard", 'tl.where(base == -float("inf"), 0.0, base)', "base"),
    Fault("_math", "above_floor", "drop guard", "tl.where(x < FLOOR, FLOOR, x)", "x"),
    Fault("_math", "row_terms", "drop term", "tv * inverse + delta", "tv * inverse"),
    Fault("_math", "row_terms", "textbook form", "s / (1.0 + s)", "1.0 - 1.0 / (1.0 + s)"),
    Fault("_math", "other_terms", "drop term", "1.0 - 2.0 * p + p_sq", "1.0 - 2.0 * p"),
    Fault("_math", "other_terms", "drop term", "delta - om * m", "delta"),
    Fault("_math", "top_terms", "drop term", "1.0 + p_top - om * rr", "1.0 + p_top"),
    Fault("_math", "top_terms", "drop factor", "p_top * m * p_top * m", "p_top * m * m"),
    Fault("logit_head", _TILE, "drop mask", "mask=inside[:, None] & present", "mask=present"),
    Fault("logit_head", _TILE, "drop mask", "z = tl.where(present, z,", "z = tl.where(z == z, z,"),
    Fault("logit_head", _TILE, "off by one", "(columns < C)[None, :]", "(columns < C - 1)[None, :]"),
    Fault("logit_head", _TILE, "drop term", "+ tied * tied_term", ""),
    Fault("logit_head", _TILE, "drop term", "tl.sum(e * e, 1) + tied", "tl.sum(e * e, 1)"),
    Fault("logit_head", _TILE, "drop mask", "mask=inside, other", "mask=rows >= 0, other"),
    Fault("logit_head", _TILE, "swap stride", "rows[:, None] * stride_n", "rows[:, None] * C"),
    Fault("logit_head", _TILE, "32-bit address", "tl.program_id(0).to(tl.int64) * BLOCK_N", "tl.program_id(0) * BLOCK_N"),
    Fault("logit_head", _SWEEP, "off by one", "range(0, C, BLOCK_C)", "range(0, C - 1, BLOCK_C)"),
    Fault("logit_head", _SWEEP, "off by one", "range(0, C, BLOCK_C)", "range(0, C - 1, BLOCK_C)", 1),
    Fault("logit_head", _SWEEP, "drop mask", "& (columns < C)[None, :]\n        v", "\n        v"),
    Fault("logit_head", _SWEEP, "flip mask", "!= index[:, None]", "== index[:, None]"),
    Fault("logit_head", _SWEEP, "swap stride", "rows[:, None] * stride_n", "rows[:, None] * C", 1),
    Fault("linear_head", _STATE, "drop mask", '[None, :], z, -float("inf"))', "[None, :], z, 0.0)"),
    Fault("linear_head", _STATE, "drop mask", "(columns < C)[None, :] & (depth < D)[:, None]", "(columns < C)[None, :]"),
    Fault("linear_head", _STATE, "drop mask", "(rows < N)[:, None] & (depth", "(depth"),
    Fault("linear_head", _STATE, "off by one", "split * SPLIT + SPLIT, C), BLOCK_C", "split * SPLIT + SPLIT, C - 1), BLOCK_C"),
    Fault("linear_head", _STATE, "swap stride", "columns[None, :] * D", "columns[None, :] * C"),
    Fault("linear_head", _STATE, "swap stride", "slots + 2 * plane, base, mask", "slots + 3 * plane, base, mask"),
    Fault("linear_head", _STATE, "drop term", "    if HAS_BIAS:\n        z +=", "    if HAS_BIAS:\n        z -= 0.0 *"),
    Fault("linear_head", _SUMS, "count twice", "expected = tl.where(split == 0, expected, 0.0)", "expected = expected"),
    Fault("linear_head", _SUMS, "drop mask", "index[:, None]) & (columns < C)[None, :]", "index[:, None])"),
    Fault("linear_head", _SUMS, "off by one", "range(splits)", "range(splits - 1)"),
    Fault("linear_head", _SUMS, "drop term", "square += tl.sum(squares, 1)", "square = tl.sum(squares, 1)"),
    Fault("linear_head", _SUMS, "swap stride", "partial_ptr + tl.cast(split, tl.int64) * N", "partial_ptr + tl.cast(split, tl.int64)"),
    Fault("ghost_norm", _GHOST, "drop mask", "(rows < T)[:, None] & (depth", "(depth"),
    Fault("ghost_norm", _GHOST, "drop mask", "(columns < T)[None, :] & (depth", "(depth"),
    Fault("ghost_norm", _GHOST, "off by one", "range(0, D, BLOCK_D)", "range(0, D - 1, BLOCK_D)"),
    Fault("ghost_norm", _GHOST, "drop term", "tl.where(row == column, 1.0, 2.0)", "1.0"),
    Fault("ghost_norm", _GHOST, "flip mask", "columns[None, :]\n    plane", "columns[None, :] + 1\n    plane"),
    Fault("ghost_norm", _GHOST, "swap stride", "n * g_stride_n", "n * g_stride_k"),
    Fault("ghost_norm", _GHOST, "swap stride", "rows[:, None] * D", "rows[:, None] * T"),
    Fault("ghost_norm", _GHOST, "off by one", "chunk * CHUNK + CHUNK, K", "chunk * CHUNK + CHUNK - 1, K"),
    Fault("ghost_norm", _GHOST, "32-bit address", "tl.program_id(0) // pairs // chunks, tl.int64", "tl.program_id(0) // pairs // chunks, tl.int32"),
    Fault("direct_norm", _DIRECT, "drop mask", "(outputs < O)[:, None] & (t < T)[None, :]", "(t < T)[None, :]"),
    Fault("direct_norm", _DIRECT, "drop mask", "(t < T)[:, None] & (inputs < I)[None, :]", "(t < T)[:, None]"),
    Fault("direct_norm", _DIRECT, "off by one", "range(0, T, BLOCK_T)", "range(0, T - 1, BLOCK_T)"),
    Fault("direct_norm", _DIRECT, "drop term", "total += tl.sum", "total = tl.sum"),
    Fault("direct_norm", _DIRECT, "flip mask", "!= 0, end, first", "!= 0, first, end"),
    Fault("direct_norm", _DIRECT, "swap stride", "t[None, :] * O", "t[None, :] * I"),
    Fault("direct_norm", _DIRECT, "32-bit address", "tl.program_id(0) // programs, tl.int64", "tl.program_id(0) // programs, tl.int32"),
    Fault("conv_norm", _CONV_DIRECT, "drop mask", "& (x >= 0) & (x < SPACE[2])", "& (x < SPACE[2])"),
    Fault("conv_norm", _CONV_DIRECT, "drop mask", "& (y >= 0) & (y < SPACE[1])", "& (y >= 0)"),
    Fault("conv_norm", _CONV_DIRECT, "off by one", "(z < SPACE[0])", "(z <= SPACE[0])"),
    Fault("conv_norm", _CONV_DIRECT, "swap dilation", "% KERNEL[1] * DILATION[1]", "% KERNEL[1] * DILATION[2]"),
    Fault("conv_norm", _CONV_DIRECT, "swap stride", "% OUT[1] * STRIDE[1]", "% OUT[1] * STRIDE[2]"),
    Fault("conv_norm", _CONV_DIRECT, "drop mask", "(t < T) & (i < I) & ", "(t < T) & "),
    Fault("conv_norm", _CONV_DIRECT, "drop term", "_group_start(group, I, SPACE, GEOMETRY)", "0 * group"),
    Fault("conv_norm", _CONV_DIRECT, "off by one", "range(0, T, BLOCK_T)", "range(0, T - 1, BLOCK_T)"),
    Fault("conv_norm", _CONV_DIRECT, "32-bit address", "programs // groups, tl.int64", "programs // groups, tl.int32"),
    Fault("conv_norm", _CONV_GHOST, "drop term", "tl.where(row == column, 1.0, 2.0)", "1.0"),
    Fault("conv_norm", _CONV_GHOST, "drop mask", "(rows < T)[:, None] & (o < O)[None, :]", "(rows < T)[:, None]"),
    Fault("conv_norm", _CONV_GHOST, "off by one", "range(0, I, BLOCK_D)", "range(0, I - 1, BLOCK_D)"),
    Fault("conv_norm", _CONV_GHOST, "off by one", "chunk * CHUNK + CHUNK, K", "chunk * CHUNK + CHUNK - 1, K"),
    Fault("conv_norm", _CONV_GHOST, "swap stride", "* groups + group) * pairs", "* groups) * pairs"),
    Fault("conv_norm", _CONV_GHOST, "drop term", "_group_start(group, I, SPACE, GEOMETRY)", "0 * group", 1),
    Fault("affine_norm", _AFFINE, "drop mask", "(t < T)[:, None] & (d < D)[None, :]", "(t < T)[:, None]"),
    Fault("affine_norm", _AFFINE, "drop mask", "(t < T)[:, None] & (d < D)[None, :]", "(d < D)[None, :]"),
    Fault("affine_norm", _AFFINE, "off by one", "range(0, T, BLOCK_T)", "range(0, T - 1, BLOCK_T)"),
    Fault("affine_norm", _AFFINE, "drop factor", "weight += g * x", "weight += g"),
    Fault("affine_norm", _AFFINE, "drop term", "bias += g", "bias = g"),
    Fault("affine_norm", _AFFINE, "swap stride", "t[:, None] * g_stride_t", "t[:, None] * x_stride_t"),
    Fault("affine_norm", _AFFINE, "swap stride", "k * g_stride_k", "k * g_stride_n"),
    Fault("affine_norm", _AFFINE, "32-bit address", "// K // blocks, tl.int64", "// K // blocks, tl.int32"),
    Fault("embedding_norm", _EMBEDDING, "drop mask", "mask=i < end, other=-1", "mask=i >= 0, other=-1"),
    Fault("embedding_norm", _EMBEDDING, "drop mask", "(i < end)[:, None] & (o < O)[None, :]", "(i < end)[:, None]"),
    Fault("embedding_norm", _EMBEDDING, "off by one", "tile * BLOCK_S + tl.arange", "tile * BLOCK_S + 1 + tl.arange"),
    Fault("embedding_norm", _EMBEDDING, "off by one", "end = tl.load(bounds + 1)", "end = tl.load(bounds + 1) - 1"),
    Fault("embedding_norm", _EMBEDDING, "flip mask", "== slot[None, :]", "!= slot[None, :]"),
    Fault("embedding_norm", _EMBEDDING, "swap stride", "bounds_ptr + n * (tiles + 1)", "bounds_ptr + n * tiles"),
    Fault("embedding_norm", _EMBEDDING, "32-bit address", "// blocks // tiles, tl.int64", "// blocks // tiles, tl.int32"),
    Fault("embedding_norm", "_slots", "drop mask", ".mul_(tokens >= 0)", ""),
]  # fmt: skip


class _FirstFailure:
    """Remembers which test failed first."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid


def _replace(module: str, source: str, folder: str) -> None:
    """Executes another source in place of the module's own, as if it had been imported from there."""
    path = Path(folder) / f"{module}_{os.getpid()}.py"
    path.write_text(source)
    target = importlib.import_module(f"fastgradnorm_kernels.{module}")
    exec(compile(source, str(path), "exec"), target.__dict__)


def _run(fault: Fault, folder: str, report: Path) -> None:
    """In a process of its own: plants, runs the tests, writes what came of it."""
    log = os.open(report.with_suffix(".log"), os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    _replace(fault.module, fault.planted(), folder)
    for module in _DEPENDENTS.get(fault.module, []):
        own = ROOT / "kernels" / "fastgradnorm_kernels" / f"{module}.py"
        _replace(module, own.read_text(), folder)
    first = _FirstFailure()
    tests = [str(ROOT / "tests" / "kernels" / f"test_{name}.py") for name in _TESTS[fault.module]]
    options = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", f"--rootdir={ROOT}"]
    options += ["-W", "ignore:Module already imported"]
    code = pytest.main([*options, *tests], plugins=[first])
    report.write_text(json.dumps({"code": int(code), "first": first.name}))


def _outcome(fault: Fault, process: Any, report: Path, started: float) -> Outcome:
    seconds = round(time.monotonic() - started, 1)
    if process.is_alive():
        process.kill()
        process.join()
        return Outcome(fault, True, f"no end within {_SECONDS} s", seconds)
    if process.exitcode < 0:
        return Outcome(fault, True, f"the process died of signal {-process.exitcode}", seconds)
    if not report.exists():
        raise RuntimeError(f"{fault} could not be planted: {report.with_suffix('.log').read_text()}")
    result = json.loads(report.read_text())
    if result["code"] not in (0, 1):
        raise RuntimeError(f"pytest could not run the tests of {fault}: code {result['code']}")
    return Outcome(fault, result["code"] == 1, result["first"], seconds)


def plant(faults: list[Fault], processes: int) -> list[Outcome]:
    """Each fault's outcome, in order."""
    for module in _TESTS:
        importlib.import_module(f"fastgradnorm_kernels.{module}")  # before the forks, once for all
    context = multiprocessing.get_context("fork")
    outcomes: dict[int, Outcome] = {}
    running: dict[int, tuple[Any, Path, float]] = {}
    waiting = list(enumerate(faults))
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < processes:
                index, fault = waiting.pop(0)
                report = Path(folder) / f"{index}.json"
                process = context.Process(target=_run, args=(fault, folder, report))
                process.start()
                running[index] = (process, report, time.monotonic())
            for index, (process, report, started) in list(running.items()):
                if not process.is_alive() or time.monotonic() - started > _SECONDS:
                    outcomes[index] = _outcome(faults[index], process, report, started)
                    del running[index]
            time.sleep(0.05)
    return [outcomes[i] for i in range(len(faults))]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels.faults")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--module", choices=list(_TESTS), help="only this kernel file")
    parser.add_argument("--per-kernel", type=int, help="at most so many faults a kernel")
    options = parser.parse_args(argv)
    modules = [options.module] if options.module else list(_TESTS)
    chosen = [fault for fault in FAULTS if fault.module in modules]
    if options.per_kernel:
        seen: dict[str, int] = {}
        for fault in list(chosen):
            seen[fault.kernel] = seen.get(fault.kernel, 0) + 1
            if seen[fault.kernel] > options.per_kernel:
                chosen.remove(fault)
    clean = [Fault(module, "all", "none", "import triton\n", "import triton\n") for module in modules]
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
        f"{len(chosen) - len(missed)} of {len(chosen)} faults caught, {len(clean) - len(broken)} of "
        f"{len(clean)} unplanted copies pass, {seconds:.0f} s"
    )
    if not options.check:
        document = {
            "faults": len(chosen),
            "caught": len(chosen) - len(missed),
            "unplanted_copies_pass": not broken,
            "seconds": round(seconds),
            "rows": [asdict(outcome) for outcome in outcomes[len(clean) :]],
        }
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")
        print(f"wrote {RESULTS}")
    return 1 if missed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
