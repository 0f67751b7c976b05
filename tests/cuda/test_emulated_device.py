"""On a CUDA device that is not there: exact scores, no slow loop, no wait for the device in a pass.

All cases run in one process of their own, in which "cuda" exists; see `emulator`. Times and the
arithmetic of real kernels are for a GPU to tell.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# The cases of `contract` and the faults of `planted`: they are imported in the other process alone.
NEEDS = dict.fromkeys(("bert", "bert, some padded", "vit", "swin"), "transformers")


def _load(name):
    spec = importlib.util.spec_from_file_location(f"emulated_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = _load("contract").CASES
BUILD = _load("build")
# Operators and launches of a pass over 64 samples of ten classes, at most.
COUNTED = {"resnet18": 450, "resnet18, exact products": 450, "vit_b, exact products": 1200}
# Captured, and replayed on other samples; all cases by `python -m benchmarks launches`.
CAPTURED = [
    "mlp", "norms", "attention padded", "bert, some padded", "lstm", "dense", "rtol", "last layer",
    "half, attention",
]  # fmt: skip
# Faults of captured passes, and what shows them.
PLANTED_IN_GRAPHS = {
    "a value read": "reasons",
    "a constant copied": "reasons",
    "a number of the host": "same",
    "memory given back": "raised",
}
LOADERS = ["pinned", "pinned, naive", "pageable", "on the device", "several schemes"]
SKETCHES = ["mlp", "attention none", "convolutions", "tied"]
PLANTED = {
    "a value read": "waits",
    "a constant copied": "waits",
    "a mask as index": "waits",
    "two devices": "raised",
    "a slow loop": "slow",
}
PRESENT = [
    name for name in CASES if name not in NEEDS or importlib.util.find_spec(NEEDS[name]) is not None
]
CAPTURED = [name for name in CAPTURED if name in PRESENT]


@pytest.fixture(scope="module")
def found():
    """What each case came to, by name."""
    if torch.version.cuda is not None:
        pytest.skip("the emulated device takes the place of CUDA: this PyTorch has its own")
    if BUILD.compiler() is None:
        pytest.skip("the emulated device needs a C++ compiler")
    paths = [BUILD.built(), HERE, ROOT, ROOT / "src", ROOT / "kernels"]
    names = [*PRESENT, *(f"sketch: {n}" for n in SKETCHES), *(f"planted: {n}" for n in PLANTED)]
    names += [f"loader: {name}" for name in LOADERS]
    names += [f"count: {name}" for name in COUNTED] + ["changed: in a stream"]
    names += [f"captured: {n}" for n in (*CAPTURED, *PLANTED_IN_GRAPHS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, str(HERE / "inside.py"), *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row.pop("name"): row for row in rows}


def faults(row, case):
    """What is wrong with a row."""
    if "raised" in row:
        return {"raised": row["raised"]}
    wrong = {}
    if not row["error"] <= case.tolerance:
        wrong["error"] = row["error"]
    if row["slow"]:
        wrong["slow"] = row["slow"]
    if sum(row["waits"].values()) > case.waits:
        wrong["waits"] = row["waits"]
    return wrong


@pytest.mark.parametrize("name", PRESENT)
def test_exact_and_without_waiting(name, found):
    assert not faults(found[name], CASES[name])


@pytest.mark.parametrize("name", [n for n in PRESENT if "last layer" not in n])
def test_backward_passes_run_in_the_thread_of_the_device(name, found):
    assert found[name]["threads"] == 1


@pytest.mark.parametrize("name", ["per tensor", "convolutions", "norms", "tied", "half", "rtol"])
def test_kernels_are_the_default(name, found):
    assert found[name]["launches"] >= 2


def test_and_are_not_used_where_they_are_not_wanted(found):
    for name in ("torch", "convolutions, torch", "float64"):
        assert found[name]["launches"] == 0


@pytest.mark.parametrize("name", COUNTED)
def test_few_operators_are_started(name, found):
    row = found[f"count: {name}"]
    assert row["operations"] <= COUNTED[name], row["by name"]
    assert not row["waits"]


def missed(row):
    """What is wrong with a pass that was captured and replayed."""
    if "raised" in row:
        return {"raised": row["raised"]}
    right = {"same": True, "reasons": []}
    wrong = {key: row[key] for key, value in right.items() if row[key] != value}
    return wrong if row["replayed"] >= 2 else wrong | {"replayed": row["replayed"]}


@pytest.mark.parametrize("name", CAPTURED)
def test_captured_passes_give_the_same_bits(name, found):
    assert not missed(found[f"captured: {name}"])


@pytest.mark.parametrize("name", PLANTED_IN_GRAPHS)
def test_faults_planted_in_graphs_are_seen(name, found):
    row = found[f"captured: {name}"]
    assert PLANTED_IN_GRAPHS[name] in missed(row), row


def test_weights_that_change_in_a_stream_are_followed(found):
    row = found["changed: in a stream"]
    assert max(row["errors"]) < 1e-5, row


@pytest.mark.parametrize("name", SKETCHES)
def test_sketches(name, found):
    row = found[f"sketch: {name}"]
    assert row.get("error", 1.0) < 1e-5, row
    # One more batch waits for its own rows, which are handed out on the host.
    assert row["waits"] <= 1, row
    assert row["launches"] >= 4, row
    assert not row["slow"], row


@pytest.mark.parametrize("name", ["pinned", "pinned, naive", "pageable"])
def test_memory_of_a_loaders_own_is_read_before_it_is_written_again(name, found):
    # From pageable memory PyTorch copies before it returns.
    one = ["written", "waited"] if "pinned" in name else ["written"]
    assert found[f"loader: {name}"] == {"told": 3 * one}


def test_batches_that_are_on_the_device_of_another_model_are_waited_for(found):
    assert found["loader: on the device"] == {"error": 0.0}


def test_several_schemes_are_waited_for_once(found):
    row = found["loader: several schemes"]
    assert row.get("error", 1.0) < 1e-5, row
    assert row["waits"] == 1, row


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_seen(name, found):
    row = found[f"planted: {name}"]
    assert PLANTED[name] in faults(row, CASES["mlp"]), row


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PATH", "")
    assert BUILD.compiler() is None
