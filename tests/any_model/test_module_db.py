"""Every module that PyTorch tests itself by, on each of its inputs: exact, or listed here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("expecttest", reason="PyTorch's own tests import it")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# By the beginning of a case's name: why it is not scored.
REFUSED = dict.fromkeys(
    (
        "BatchNorm1d-4-not_tracking_stats-whole",
        "BatchNorm2d-4-not_tracking_stats-whole",
        "BatchNorm3d-4-not_tracking_stats-whole",
    ),
    "mixes samples",
)
# Why it is scored one sample at a time.
SLOW = {
    "CTCLoss": "lengths that are lists: PyTorch makes a tensor of them that it reads",
    "LinearCrossEntropyLoss": "an operator of `torch.library` that has no rule for vmap",
}
IS_NEW = hasattr(torch.nn, "LinearCrossEntropyLoss")
LEAST = 1250 if IS_NEW else 1100  # cases; of PyTorch 2.13 it is 1,287 in both forms, of 2.11 1,161


@pytest.fixture(scope="module")
def outcomes():
    """By case, what came of it: judged in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.module_cases"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


def named(outcomes, *kinds):
    return {name: row["message"] for name, row in outcomes.items() if row["outcome"] in kinds}


def test_none_is_wrong_and_none_crashes(outcomes):
    assert named(outcomes, "wrong", "crashed") == {}


def test_refusals_are_those_that_must_be(outcomes):
    refused = named(outcomes, "refused")
    assert refused.keys() == REFUSED.keys()
    for name, message in refused.items():
        assert REFUSED[name] in message


def test_slow_are_those_that_must_be(outcomes):
    slow = {name.partition("-")[0] for name in named(outcomes, "slow")}
    assert slow == {name for name in SLOW if hasattr(torch.nn, name)}


def test_there_are_cases_of_all_kinds(outcomes):
    assert len(outcomes) >= LEAST
    exact = named(outcomes, "exact")
    modules = {name.partition("-")[0] for name in exact}
    assert len(modules) >= 100
    assert {name.rpartition("-")[2] for name in exact} == {"whole", "rows"}
