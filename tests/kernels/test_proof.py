"""What needs the compiler, or kernels planted with faults: each in a process of its own."""

import collections
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import triton

from benchmarks.kernels import loops

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
# Share of all configurations that may spill with a Triton for which tiles were not chosen: seen are
# 3 of 203 with 3.6, and 3 of 200 with 3.9 (`sm_90`).
SPILLS = 0.08


def _run(*command, checked=True):
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'kernels'}"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    if checked:
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout, done.returncode


def _tuned_for():
    """The Triton that tiles were chosen with: the tested one."""
    text = (ROOT / "constraints.txt").read_text()
    return re.search(r"^triton==(\d+\.\d+)", text, re.MULTILINE)[1]


def test_every_block_configuration_compiles():
    # shared memory within the chip's limit, no spills, matrix units, no atomics; loops of products
    # that load whole vectors and count little, but for what `loops.EXCUSED` names
    if triton.__version__.startswith(_tuned_for() + "."):
        # What `kernels_checked.json` holds came out right from the same text and compiler.
        output, _ = _run("-m", "benchmarks.kernels.known")
        assert re.findall(r"(sm_\d+): (?!0)\d+ .*, 0 with problems", output) == ["sm_80", "sm_90"]
        return
    for arch in ("80", "90"):
        _compiled_elsewhere(arch)


def _compiled_elsewhere(arch):
    # Other versions bring an assembler that hands out registers in another way: some spill, which
    # takes time and changes no number.
    options = ("--check", "--any-loops", "--arch", arch)
    output, code = _run("-m", "benchmarks.kernels.compiled", *options, checked=False)
    *rows, summary = output.splitlines()
    count, bad = map(int, re.findall(r"\d+", summary))
    assert len(rows) == bad <= SPILLS * count, output
    assert code == (bad > 0)
    spilled = re.compile(r": \['\d+ bytes of stack: registers spilled'\]$")
    assert all(spilled.search(row) for row in rows), output


# A product on matrix units of each kernel and arithmetic: what is wrong with its loop, whichever
# Triton compiles it.
LOOPS = """
from benchmarks.kernels import compiled, loops

from triton import compile

for arch in (80, 90):
    target = compiled.GPUTarget("cuda", arch, 32)
    wanted = {}
    for _, dtype, precision, launch in compiled.launches(arch):
        given = launch.arguments
        product = "PRECISION" in given or "BLOCK_M" in given
        if product and loops.is_bound(given) and not loops.excuse(given, arch):
            wanted.setdefault((launch.kernel.__name__, precision), launch)
    for key, launch in wanted.items():
        options = {k: v for k, v in launch.options.items() if k in compiled._OPTIONS}
        made = compile(compiled.specialise(launch), target=target, options=options)
        found = loops.of_launch(made.asm["cubin"], launch.arguments, options["num_warps"])
        print(arch, *key, found)
        print("wrong:", loops.problems(found))
"""


def test_loops_of_products_load_vectors_and_count_little():
    output, _ = _run("-c", LOOPS)
    # Seven on sm_80; on sm_90 direct norms in TF32 have tiles that are excused.
    assert output.count("wrong: []") == output.count("wrong:") == 13, output


def test_loops_that_are_slow_are_named():
    # What was stored of all six targets: every product within its bounds, or excused by name, and
    # no excuse that holds for nothing or is wider than what it excuses needs.
    stored = json.loads((ROOT / "benchmarks" / "results" / "kernels_compiled.json").read_text())
    rows = [row for row in stored["rows"] if row["precision"] != "tf32x3"]  # nobody asks for it
    assert {row["arch"] for row in rows} == {80, 86, 89, 90, 100, 120}
    assert not [row for row in rows if row["problems"] or row["slow"]]
    most, loads = {}, collections.defaultdict(set)
    for row in rows:
        name = row["excused"]
        for loop in row["loops"] if name else []:
            most[name] = max(most.get(name, 0), loop["integer"] / loop["matrix"])
            loads[name] |= {*loop["loads"]}
    assert most.keys() == {each.name for each in loops.EXCUSED}
    for each in loops.EXCUSED:
        assert 0.8 * each.integers <= most[each.name] <= each.integers
        assert loads[each.name] == each.loads
    bound = [row for row in rows if row["loops"] and not row["excused"]]
    assert {row["precision"] for row in bound} >= {"ieee", "tf32", "bf16x6", "halves"}


@pytest.mark.parametrize(
    "loop, wrong",
    [
        (loops.Loop(8, 32, {"128": 4}), []),
        (loops.Loop(8, 33, {"128": 4}), ["33 integer instructions for 8 matrix instructions"]),
        (loops.Loop(8, 3, {"128": 4, "32": 1}), ["loads in a loop of products are narrow"]),
        (loops.Loop(8, 3, {}), ["loads in a loop of products are narrow"]),
    ],
)
def test_what_is_wrong_with_a_loop(loop, wrong):
    said = loops.problems([loop])
    assert len(said) == len(wrong)
    assert all(text in each for text, each in zip(wrong, said, strict=True))


# In a process of its own, for kernels are interpreted here: prints the kinds of changes after which
# a compilation is still taken as known, and what is said of one that did not come out as it did.
CHANGES = """
import dataclasses

from benchmarks.kernels import compiled, known
from fastgradnorm_kernels import ghost_norm

launch = compiled.gathered(90)[0][3]
compiled._ALL[90] = compiled._ALL[90][:1]
key = known.key(launch, 90)
numbers, tile = launch.arguments, launch.arguments["BLOCK_T"]
warps = dataclasses.replace(launch, options=launch.options | {"num_warps": 16})
changes = {"chip": known.key(launch, 80), "options": known.key(warps, 90)}
others = {"x_ptr": numbers["x_ptr"].half(), "BLOCK_T": 2 * tile}
for name, other in others.items():
    changed = dataclasses.replace(launch, arguments=numbers | {name: other})
    changes[name] = known.key(changed, 90)
for name in ("_ghost_sq_norm_kernel", "activation_gram"):  # what the kernel calls counts, too
    function = getattr(ghost_norm, name)
    source = function.src
    function._unsafe_update_src(source.replace("0.0", "1.0"))
    launch.kernel.hash = None
    changes[name] = known.key(launch, 90)
    function._unsafe_update_src(source)
launch.kernel.hash = None
assert known.key(launch, 90) == key
print("still known:", [name for name, other in changes.items() if other == key])
print("wrong:", known.check(90, {key: "1 register"}, 1)[1])
"""


def test_what_is_known_is_known_by_all_that_a_compilation_depends_on():
    output, _ = _run("-c", CHANGES)
    assert "still known: []" in output
    assert re.search(
        r"wrong: .*_ghost_sq_norm_kernel .*: \d+ registers.*, was 1 register\b", output
    )


def test_planted_faults_are_caught():
    # That all tests pass where nothing is planted, this suite shows.
    output, _ = _run("-m", "benchmarks.kernels.faults", "--check", "--per-kernel", "1")
    assert "1 of 1 unplanted" in output
