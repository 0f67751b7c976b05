"""What every kernel compiles to for AMD's Instinct MI300 (gfx942), without one.

    python -m benchmarks.kernels.compiled_amd          # writes results/kernels_compiled_amd.json
    python -m benchmarks.kernels.compiled_amd --check  # compiles and checks, writes nothing

The launches are those of a plain GPU (see `compiled`), but for `"tf32x3"`, which AMD's compiler
does not know and nobody asks for there. Fails where registers are spilled, or a block takes more of
the local memory than there is, or a product is formed off the matrix units. None has run on such a
device.
"""

import argparse
import re
import sys
from dataclasses import asdict
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import compile as compiled_for

from benchmarks.kernels.compiled import _OPTIONS, _TYPES, Row, gathered, specialise
from benchmarks.provenance import provenance, store

CHIP, WAVE = "gfx942", 64
LOCAL = 65_536  # bytes of local memory of a workgroup
PLAIN = 80  # whose launches are compiled
_UNKNOWN = "tf32x3"


def _counted(pattern: str, text: str) -> int:
    found = re.search(rf"{pattern}:?\s+(\d+)", text)
    assert found, pattern
    return int(found[1])


def compile_one(index: int) -> Row:
    """One launch compiled."""
    operation, dtype, precision, launch = gathered(PLAIN)[index]
    options = {k: v for k, v in launch.options.items() if k in _OPTIONS}
    target = GPUTarget("hip", CHIP, WAVE)
    made = compiled_for(specialise(launch), target=target, options=options)
    text = made.asm["amdgcn"]
    blocks: dict[str, Any] = {
        param.name: launch.arguments[param.name]
        for param in launch.kernel.params
        if param.is_constexpr
    }
    spilled = _counted(r"\.vgpr_spill_count", text)
    matrix = len(re.findall(r"\bv_mfma", text))
    problems = []
    if spilled:
        problems.append(f"{spilled} registers spilled")
    if made.metadata.shared > LOCAL:
        problems.append(f"{made.metadata.shared} bytes of local memory, {LOCAL} at most")
    if "PRECISION" in blocks and not matrix:
        problems.append("no matrix-unit instruction in a product")
    return Row(
        operation,
        launch.kernel.__name__,
        _TYPES[dtype],
        precision,
        blocks | options,
        int(CHIP[3:]),
        _counted(r"\.vgpr_count", text),
        spilled,
        made.metadata.shared,
        {"v_mfma": matrix},
        [],
        None,
        problems,
        [],
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels.compiled_amd")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(argv)
    rows = [compile_one(i) for i, row in enumerate(gathered(PLAIN)) if row[2] != _UNKNOWN]
    bad = [row for row in rows if row.problems]
    for row in bad:
        print(f"{row.kernel} {row.dtype} {row.precision} {CHIP} {row.blocks}: {row.problems}")
    print(f"{CHIP}: {len(rows)} compilations, {len(bad)} with problems")
    if not options.check:
        document = {"provenance": provenance(), "rows": [asdict(row) for row in rows]}
        print(f"written: {store('kernels_compiled_amd', document)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
