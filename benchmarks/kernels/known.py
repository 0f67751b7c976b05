"""Checks what every kernel compiles to, and compiles only what was not checked before.

    python -m benchmarks.kernels.known --arch 90
    python -m benchmarks.kernels.known --store   # compiles all of both, writes kernels_checked.json

A compilation is known by Triton's own key of the kernel, which covers all that it calls, its
arguments' types and constants; by the options, the chip, Triton's version and the text of the
check: of two with the same key the compiler makes the same binary. What is known came out without
problems and is taken as it came out. The rest is compiled and checked: whatever has changed since,
and every sixteenth of those that are known, which must come out as they did.
"""

import argparse
import hashlib
import sys
from pathlib import Path

from benchmarks.kernels import compiled, loops
from benchmarks.provenance import load, provenance, store

STORED = "kernels_checked"
CHIPS = (80, 90)
AGAIN = 16  # one in so many is compiled though it is known


def key(launch: compiled.Launch, arch: int) -> str:
    """All that a compilation and its check depend on, in a few letters."""
    check = "".join(Path(module.__file__).read_text() for module in (compiled, loops))
    parts = (compiled.triton.__version__, arch, sorted(launch.options.items(), key=str), check)
    text = f"{compiled.specialise(launch).hash()} {parts}"
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _outcome(row: compiled.Row) -> str:
    return f"{row.registers} registers, {row.shared} bytes shared"


def check(arch: int, known: dict[str, str], processes: int) -> tuple[dict[str, str], list[str]]:
    """Outcomes of every configuration by its key, and what is wrong.

    Args:
        arch: As in `compiled`.
        known: Outcomes by key.
        processes: So many compile.
    """
    keys = [key(launch, arch) for *_, launch in compiled.gathered(arch)]
    jobs = [(i, arch) for i, k in enumerate(keys) if k not in known or i % AGAIN == 0]
    rows = dict(zip([i for i, _ in jobs], compiled.rows_of(jobs, processes), strict=True))
    wrong = []
    for i, row in rows.items():
        if said := row.problems + row.slow:
            wrong.append(f"{row.kernel} {row.dtype} {row.precision} sm_{arch} {row.blocks}: {said}")
        elif known.get(keys[i], _outcome(row)) != _outcome(row):
            wrong.append(
                f"{row.kernel} {row.blocks} sm_{arch}: {_outcome(row)}, was {known[keys[i]]}"
            )
    found = {k: known[k] if k in known else _outcome(rows[i]) for i, k in enumerate(keys)}
    print(
        f"sm_{arch}: {len(keys)} configurations, {len(rows)} compiled, {len(wrong)} with problems"
    )
    return found, wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels.known")
    parser.add_argument("--arch", type=int, choices=CHIPS, help="only this one")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--store", action="store_true", help="compile everything, and write it")
    options = parser.parse_args(argv)
    kept = load(STORED) or {"checked": {}}
    known = {} if options.store else kept["checked"]
    found, wrong = {}, []
    for arch in (options.arch,) if options.arch else CHIPS:
        found[str(arch)], told = check(arch, known.get(str(arch), {}), options.processes)
        wrong += told
    print("\n".join(wrong))
    if options.store and not wrong:
        document = {"provenance": provenance(), "checked": kept["checked"] | found}
        print(f"written: {store(STORED, document)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
