"""How many kernels a ResNet-18 has compiled at its first pass: each takes a user's time."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


def _run(*command):
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'kernels'}"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": paths}
    command = [sys.executable, *command]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(torch.version.cuda is not None, reason="the emulated device is not this one's")
@pytest.mark.skipif(shutil.which("g++") is None, reason="the emulated device needs a C++ compiler")
def test_few_kernels_are_compiled():
    done = _run("-m", "benchmarks.kernels.cold", "--count")
    found = re.findall(r"(\w+): (\d+) kernels; at most (\d+)", done.stdout)
    assert [way for way, *_ in found] == ["float32", "tf32", "bfloat16"], done.stderr[-3000:]
    # And no more than need be: a smaller number is to be held to.
    assert all(count == most for _, count, most in found), done.stdout
    assert done.returncode == 0


# Two launches of one kernel that the same binary serves, one of another memory, one of a number of
# columns that is a multiple of 16: how many are told apart, and what is said of one.
NOTED = """
from benchmarks.kernels import cold

tensor = {"dtype": "float32", "aligned": True}
pointers = dict.fromkeys(("x_ptr", "g_ptr", "partial_ptr"), tensor)
numbers = {name: 3 for name in ("K", "T", "D", "blocks")}
strides = {f"{of}_stride_{dim}": 3 for of in "xg" for dim in "nktd" if of + dim != "xk"}
sizes = {"BLOCK_T": 16, "BLOCK_D": 16}

def launch(**changes):
    arguments = {**pointers, **numbers, **strides, **sizes, **changes}
    names = [p.name for p in affine_norm._affine_sq_norm_kernel.params]
    return {
        "module": "fastgradnorm_kernels.affine_norm",
        "kernel": "_affine_sq_norm_kernel",
        "arguments": {name: arguments[name] for name in names},
        "options": {"num_warps": 1},
        "batch": 0,
    }

from fastgradnorm_kernels import affine_norm

odd = launch(x_ptr=tensor | {"aligned": False})
rows = cold.measured([launch(), launch(K=16), odd, launch(D=16)])
print(len(rows), all(row["seconds"] > 0 for row in rows))
print([row["pointers"][0] for row in rows], [row["specialised"][1] for row in rows])
"""


def test_compilations_are_told_apart_as_the_compiler_does():
    done = _run("-c", NOTED)
    assert "\n3 True\n" in done.stdout, done.stderr[-3000:]
    assert "['*fp32', '*fp32, odd', '*fp32'] ['D: any', 'D: any', 'D: 16']" in done.stdout
