"""Launches tell the compiler what they count on, whatever its defaults are."""

import ast
from pathlib import Path

import fastgradnorm_kernels
import pytest
from fastgradnorm_kernels._launch import LAUNCH

KERNELS = Path(fastgradnorm_kernels.__file__).parent


def launches(tree):
    """Calls of `kernel[grid]`, with the function that makes them."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                called = node.func if isinstance(node, ast.Call) else None
                if isinstance(called, ast.Subscript) and "_kernel" in ast.unparse(called.value):
                    yield function, node


@pytest.mark.slow
def test_every_launch_has_the_same_options():
    found = 0
    for path in KERNELS.glob("*.py"):
        for function, launch in launches(ast.parse(path.read_text())):
            spread = {ast.unparse(k.value) for k in launch.keywords if k.arg is None}
            assigned = [
                ast.unparse(n.value) for n in ast.walk(function) if isinstance(n, ast.Assign)
            ]
            through = "options" in spread and any("LAUNCH" in value for value in assigned)
            assert "LAUNCH" in spread or through, f"{path}: {ast.unparse(launch.func)}"
            found += 1
    assert found >= 8
    assert LAUNCH == {"enable_fp_fusion": True}
