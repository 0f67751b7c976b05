"""What every kernel compiles to, without a GPU: registers, shared memory, instructions.

    python -m benchmarks.kernels.compiled           # writes results/kernels_compiled.json
    python -m benchmarks.kernels.compiled --check   # compiles and checks, writes nothing

The launchers run on meta tensors of realistic shapes, and their launches are recorded instead of
made: what is compiled is what would be launched, with the same specialisation of arguments. Fails
where a kernel spills registers, takes more shared memory than the chip has, forms a product off
the matrix units though its dtype allows them, or keeps them waiting (see `loops`).
"""

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Before the kernels are imported: interpreted ones compile to nothing.
os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from fastgradnorm_kernels import tiles
from fastgradnorm_kernels._launch import LAUNCH
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from benchmarks.kernels import loops
from benchmarks.kernels.compiled_calls import calls
from benchmarks.kernels.loops import Loop
from benchmarks.provenance import provenance, store

ARCHS = (80, 86, 89, 90, 100, 120)
# Bytes of shared memory that one block may have.
SHARED_LIMIT = {arch: tiles.shared_memory(divmod(arch, 10)) for arch in ARCHS}
_TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_INTEGERS = {torch.int8: "i8", torch.int32: "i32", torch.int64: "i64"}
_OPTIONS = ("num_warps", "num_stages", "maxnreg", *LAUNCH)
# What is counted in the PTX.
_INSTRUCTIONS = {
    "mma.sync": r"\bmma\.sync",
    "wgmma": r"\bwgmma\.mma_async",
    "tcgen05": r"\btcgen05\.mma",
    "ldmatrix": r"\bldmatrix",
    "cp.async": r"\bcp\.async\.(?:ca|cg)",
    "ld.global": r"\bld\.global",
    "st.global": r"\bst\.global",
    "fma.f32": r"\bfma\.rn\.f32",
    "ex2": r"\bex2\.approx",
    "sqrt": r"\bsqrt\.",
    "atom": r"\b(?:atom|red)\.",
}


@dataclass
class Launch:
    """One launch as a launcher asked for it."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, Any]


@dataclass
class Row:
    """One line of the table."""

    operation: str
    kernel: str
    dtype: str
    precision: str
    blocks: dict[str, Any]
    arch: int
    registers: int
    stack: int
    shared: int
    instructions: dict[str, int]
    loops: list[Loop]
    excused: str | None
    problems: list[str]
    slow: list[str]


def record(launch: Callable[[], Any]) -> list[Launch]:
    """The kernel launches that `launch()` would make."""
    launches = []

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        names = list(self.arg_names)
        arguments = dict(zip(names, args, strict=False))
        arguments |= {name: value for name, value in kwargs.items() if name in names}
        assert list(arguments) and set(arguments) == set(names), set(names) - set(arguments)
        options = {name: value for name, value in kwargs.items() if name not in names}
        launches.append(Launch(self, {name: arguments[name] for name in names}, options))

    original = JITFunction.run
    JITFunction.run = run  # type: ignore[method-assign]
    try:
        launch()
    finally:
        JITFunction.run = original  # type: ignore[method-assign]
    return launches


def specialise(launch: Launch) -> ASTSource:
    """The source that Triton would compile for this launch, with its usual specialisation."""
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}

    def kind(value: Any, path: tuple[int, ...]) -> Any:
        if isinstance(value, tuple):
            return tuple(kind(item, (*path, i)) for i, item in enumerate(value))
        if isinstance(value, Tensor):
            attributes[path] = [["tt.divisibility", 16]]
            return "*" + (_TYPES | _INTEGERS)[value.dtype]
        specialised = not launch.kernel.params[path[0]].do_not_specialize
        if value == 1 and specialised:
            constants[path] = 1
            return "constexpr"
        if value % 16 == 0 and specialised:
            attributes[path] = [["tt.divisibility", 16]]
        return "i32" if abs(value) < 2**31 else "i64"

    for i, (name, value) in enumerate(launch.arguments.items()):
        if launch.kernel.params[i].is_constexpr:
            signature[name], constants[(i,)] = "constexpr", value
        else:
            signature[name] = kind(value, (i,))
    return ASTSource(launch.kernel, signature, constants, attributes)


def launches(arch: int) -> list[tuple[str, torch.dtype, str, Launch]]:
    """Every operation, dtype and block configuration in use on one architecture."""
    original = tiles.gpu
    tiles.gpu = lambda device: ("", divmod(arch, 10))
    try:
        found = [
            (operation, dtype, precision, launch)
            for operation, dtype, precision, call in calls()
            for launch in record(call)
        ]
    finally:
        tiles.gpu = original
    return _distinct(found)


def _distinct(
    found: list[tuple[str, torch.dtype, str, Launch]],
) -> list[tuple[str, torch.dtype, str, Launch]]:
    """Without launches that another one's binary serves."""
    kept = {}
    for entry in found:
        launch = entry[3]
        source = specialise(launch)
        key = (source.hash(), str(sorted(launch.options.items(), key=str)), entry[2])
        kept.setdefault(key, entry)
    return list(kept.values())


def _resources(cubin: bytes, scratch: Path) -> tuple[int, int]:
    """Registers and stack bytes, as the assembler left them in the binary."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    scratch.write_bytes(cubin)
    report = subprocess.run(
        [tool, "--dump-resource-usage", scratch], capture_output=True, text=True, check=True
    ).stdout
    scratch.unlink()
    match = re.search(r"REG:(\d+) STACK:(\d+)", report)
    assert match, report
    return int(match[1]), int(match[2])


def compile_one(index: int, arch: int) -> Row:
    """One launch compiled for one architecture."""
    operation, dtype, precision, launch = _ALL[arch][index]
    options = {k: v for k, v in launch.options.items() if k in _OPTIONS}
    compiled = triton.compile(
        specialise(launch), target=GPUTarget("cuda", arch, 32), options=options
    )
    scratch = Path(os.environ.get("TMPDIR", "/tmp")) / f"kernel_{os.getpid()}.cubin"
    registers, stack = _resources(compiled.asm["cubin"], scratch)
    ptx = compiled.asm["ptx"]
    counts = {name: len(re.findall(pattern, ptx)) for name, pattern in _INSTRUCTIONS.items()}
    shared = compiled.metadata.shared
    blocks = {
        param.name: launch.arguments[param.name]
        for param in launch.kernel.params
        if param.is_constexpr
    }
    problems, found = [], list[Loop]()
    if "PRECISION" in blocks or "TAPS" in blocks:
        found = loops.of_launch(compiled.asm["cubin"], launch.arguments, options["num_warps"])
    bound = bool(found) and loops.is_bound(launch.arguments)
    excused = loops.excuse(launch.arguments, arch) if bound else None
    if stack:
        problems.append(f"{stack} bytes of stack: registers spilled")
    if shared > SHARED_LIMIT[arch]:
        problems.append(f"{shared} bytes of shared memory, {SHARED_LIMIT[arch]} at most")
    products = "PRECISION" in blocks or "BLOCK_S" in blocks
    allowed = products and (dtype != torch.float32 or precision != "ieee")
    allowed = allowed or "TAPS" in blocks
    if allowed and not counts["mma.sync"] + counts["wgmma"] + counts["tcgen05"]:
        problems.append("no matrix-unit instruction in a product that allows it")
    if counts["atom"]:
        problems.append("an atomic operation: results would not be deterministic")
    return Row(
        operation,
        launch.kernel.__name__,
        _TYPES[dtype],
        precision,
        blocks | options,
        arch,
        registers,
        stack,
        shared,
        {name: count for name, count in counts.items() if count},
        found,
        excused and excused.name,
        problems,
        loops.problems(found, excused) if bound else [],
    )


_ALL: dict[int, list[tuple[str, torch.dtype, str, Launch]]] = {}


def table(processes: int, archs: tuple[int, ...] = ARCHS) -> list[Row]:
    """All rows, compiled by so many processes."""
    jobs = [(i, arch) for arch in archs for i in range(len(gathered(arch)))]
    return rows_of(jobs, processes)


def gathered(arch: int) -> list[tuple[str, torch.dtype, str, Launch]]:
    """`launches` of an architecture, kept for the processes that compile: these fork later."""
    return _ALL.setdefault(arch, launches(arch))


def rows_of(jobs: list[tuple[int, int]], processes: int) -> list[Row]:
    """Rows of launches, each by its number and architecture, that `gathered` has kept."""
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        return pool.starmap(compile_one, jobs, chunksize=4)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels.compiled")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--arch", type=int, choices=ARCHS, help="only this one")
    parser.add_argument("--any-loops", action="store_true", help="of products, however slow")
    options = parser.parse_args(argv)
    rows = table(options.processes, (options.arch,) if options.arch else ARCHS)
    bad = [row for row in rows if row.problems or (row.slow and not options.any_loops)]
    for row in bad:
        said = row.problems if options.any_loops else row.problems + row.slow
        print(f"{row.kernel} {row.dtype} {row.precision} sm_{row.arch} {row.blocks}: {said}")
    print(f"{len(rows)} compilations, {len(bad)} with problems")
    if not options.check:
        document = {
            "provenance": provenance(),
            "shared_limit": SHARED_LIMIT,
            "rows": [asdict(row) for row in rows],
        }
        print(f"written: {store('kernels_compiled', document)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
