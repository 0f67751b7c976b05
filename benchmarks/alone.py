"""A function in a process of its own, so that memory is that of one thing alone."""

import importlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def call(target: str, arguments: Mapping[str, Any], fresh: bool = True) -> dict[str, Any]:
    """What `module:function` returns for keyword arguments, or `{"reason": ...}` if it failed.

    Args:
        target: Of a function from JSON's types to a dict of them.
        arguments: Its keyword arguments.
        fresh: In a process of its own, on as many threads as here.
    """
    if not fresh:
        return _run(target, arguments)
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.alone", target]
    command += [json.dumps(arguments), str(torch.get_num_threads())]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"reason": last[:300]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _run(target: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    module, _, function = target.partition(":")
    found: dict[str, Any] = getattr(importlib.import_module(module), function)(**arguments)
    return found


def main(target: str, arguments: str, threads: str) -> None:
    """Prints the result as a line of JSON."""
    torch.set_num_threads(int(threads))
    torch.ones(256, 256) @ torch.ones(256, 256)  # threads and libraries have their memory
    print(json.dumps(_run(target, json.loads(arguments))))


if __name__ == "__main__":
    main(*sys.argv[1:4])
