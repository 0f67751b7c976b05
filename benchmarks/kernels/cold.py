"""Compilation that a pool waits for at first: all that a ResNet-18 launches, in CPU seconds.

    python -m benchmarks.kernels.cold           # prints
    python -m benchmarks.kernels.cold --store   # and writes results/cold_start.json
    python -m benchmarks.kernels.cold --count   # compiles nothing

What passes over two batches launch is noted on the emulated device, with all that Triton's compiler
is told of it: on a GPU of compute capability 9.0, of 64 images of 32 x 32 in ten classes, then of
fewer, as the last batch of a pool has. Each is compiled for that chip, three times, of which the
least counts. What Triton does once a process, whatever it compiles, is told apart.
"""

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # before Triton is imported, as in `compiled`

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.kernels.compiled import _OPTIONS, Launch, specialise
from benchmarks.provenance import provenance, store

ROOT = Path(__file__).parents[2]
DEVICE = ROOT / "tests" / "cuda"
# How float32 is multiplied, or the dtype, and how many kernels may be compiled for it.
WAYS = {"float32": 10, "tf32": 9, "bfloat16": 9}
TARGET = GPUTarget("cuda", 90, 32)
TIMES = 3


@triton.jit
def _nothing_kernel(out_ptr):
    tl.store(out_ptr, 0.0)


def noted(ways: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Launches of each way; RuntimeError where there can be no emulated device."""
    spec = importlib.util.spec_from_file_location("emulated_build", DEVICE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    if build.compiler() is None or torch.version.cuda is not None:
        raise RuntimeError("The emulated device needs a C++ compiler, and a PyTorch without CUDA.")
    paths = [build.built(), DEVICE, ROOT, ROOT / "src", ROOT / "kernels"]
    command = [sys.executable, str(DEVICE / "inside.py"), *(f"launched: {way}" for way in ways)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["name"].removeprefix("launched: "): row["launches"] for row in rows}


def distinct(launches: list[dict[str, Any]]) -> list[tuple[Launch, ASTSource, int]]:
    """Each with its source and the batch it is first in; without those that another one serves."""
    found: dict[Any, tuple[Launch, ASTSource, int]] = {}
    for row in launches:
        kernel = getattr(importlib.import_module(row["module"]), row["kernel"])
        given = {name: _given(value) for name, value in row["arguments"].items()}
        launch = Launch(kernel, given, row["options"])
        source = specialise(launch)
        for place, value in enumerate(row["arguments"].values()):
            if isinstance(value, dict) and not value["aligned"]:
                del source.attrs[place,]
        key = source.hash(), str(sorted(row["options"].items()))
        found.setdefault(key, (launch, source, row["batch"]))
    return list(found.values())


def _given(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return torch.empty(16, dtype=getattr(torch, value["dtype"]), device="meta")


def described(launch: Launch, source: ASTSource, batch: int) -> dict[str, Any]:
    """What a kernel is compiled for."""
    constants, dtypes, specialised = {}, [], []
    for place, parameter in enumerate(launch.kernel.params):
        name, value = parameter.name, launch.arguments[parameter.name]
        if isinstance(value, torch.Tensor):
            dtypes.append(source.signature[name] + ("" if (place,) in source.attrs else ", odd"))
        elif parameter.is_constexpr:
            constants[name] = value
        elif not parameter.do_not_specialize:
            kind = "1" if (place,) in source.constants else "any"
            specialised.append(f"{name}: {'16' if (place,) in source.attrs else kind}")
    return {
        "kernel": launch.kernel.__name__,
        "batch": batch,
        "constants": constants,
        "options": {k: v for k, v in launch.options.items() if k in _OPTIONS},
        "pointers": dtypes,
        "specialised": specialised,
    }


def seconds(source: ASTSource, options: dict[str, Any]) -> float:
    """CPU seconds of a compilation, the assembler's among them."""

    def spent() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    given = {name: value for name, value in options.items() if name in _OPTIONS}
    before = spent()
    triton.compile(source, target=TARGET, options=given)
    return spent() - before


def measured(launches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each kernel that is compiled, printed."""
    rows = []
    for launch, source, batch in distinct(launches):
        least = min(seconds(source, launch.options) for _ in range(TIMES))
        row = {"seconds": round(least, 3), **described(launch, source, batch)}
        told = [f"{k}={v}" for k, v in {**row["constants"], **row["options"]}.items()]
        print(f"  {least:5.2f} s {row['kernel']} {' '.join(told)} {row['specialised']}", flush=True)
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Prints and stores; 1 if more kernels are compiled than `WAYS` says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels.cold")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--count", action="store_true", help="compile nothing")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    options = parser.parse_args(argv)
    found = noted(options.ways)
    counts = {way: len(distinct(launches)) for way, launches in found.items()}
    if not options.count:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TRITON_CACHE_DIR"] = cache
            once = seconds(ASTSource(_nothing_kernel, {"out_ptr": "*fp32"}, {}, {}), {})
            print(f"once a process: {once:.2f} s")
            rows = {way: measured(launches) for way, launches in found.items()}
        totals = {way: sum(row["seconds"] for row in rows[way]) for way in rows}
        if options.store:
            document = {"provenance": provenance(), "once": round(once, 3), "totals": totals}
            print(f"written: {store('cold_start', document | {'rows': rows})}")
    for way, count in counts.items():
        said = "" if options.count else f", {totals[way]:.2f} s"
        print(f"{way}: {count} kernels{said}; at most {WAYS[way]}")
    return int(any(count > WAYS[way] for way, count in counts.items()))


if __name__ == "__main__":
    sys.exit(main())
