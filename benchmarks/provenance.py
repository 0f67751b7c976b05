"""Where a figure comes from, and the files that figures are kept in."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Machine, versions, commit and date of a measurement."""
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_average": [round(x, 2) for x in os.getloadavg()],
            "system": platform.platform(),
        },
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "versions": {
            "python": platform.python_version(),
            **{name: installed(name) for name in ("torch", "numpy", "transformers", "triton")},
        },
    }
    if device.startswith("cuda"):
        facts["versions"]["cuda"] = torch.version.cuda
    return facts


def moment(facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """When, where and of which commit a figure is, in a file of figures of several runs.

    Args:
        facts: Of the run; None: of this one.
    """
    facts = provenance() if facts is None else facts
    machine = {key: facts["machine"][key] for key in ("processor", "load_average")}
    return {"date": facts["date"], "commit": facts["commit"], **machine}


def installed(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The checked-out commit, with a mark where source files differ from it."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", "../src", "../kernels")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + (" (changed)" if changed else "")


def store(name: str, results: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Writes `<name>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return path


def load(name: str, folder: Path = RESULTS) -> Any:
    """Reads `<name>.json`; None where it is not there."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None
