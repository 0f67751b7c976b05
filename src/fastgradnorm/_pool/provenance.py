"""What a result says about how it came about."""

import logging
import platform
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgradnorm._pool.columns import Columns
from fastgradnorm._pool.identity import model_hash, plain_options
from fastgradnorm._pool.run import Run
from fastgradnorm._pool.shared_run import SharedRun
from fastgradnorm._schemes import Groups, column
from fastgradnorm._version import __version__

_LOG = logging.getLogger("fastgradnorm")
# Told in places of their own.
_ELSEWHERE = ("scheme", "params", "seed", "subset")


def by_group(run: Run | SharedRun, scheme: str, columns: Columns) -> dict[str, Tensor]:
    """Squared norms of each group of parameters that counted, by its name."""
    options = run.subject.options
    if options.group_by is None:
        return {}
    groups = Groups(options.group_by, run.subject.chosen)
    last = options.params == "last_layer"
    places = groups.used(run.counted) if last else range(len(groups.names))
    found = {groups.names[i]: columns.get(f"score {column(scheme, i)}") for i in places}
    return {name: values for name, values in found.items() if values is not None}


def provenance(run: Run | SharedRun) -> dict[str, Any]:
    """Plain data about a finished run."""
    subject, names = run.subject, run.counted
    options = subject.options
    selected = options.params
    plain = plain_options(options, subject.model, whole=options.checkpoint is not None)
    told = {
        "parameters": {
            "selected": selected if isinstance(selected, str) else "by function",
            "tensors": len(names),
            "elements": sum(subject.parameters[name].numel() for name in names),
            "names": list(names),
        },
        "options": {k: v for k, v in plain.items() if k not in _ELSEWHERE},
        "versions": {
            "fastgradnorm": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": _device_name(subject.device),
        "dtype": str(subject.dtype).removeprefix("torch."),
        "seed": options.seed,
        "subset": options.subset,
        "seconds": run.seconds,
        "findings": run.findings.plain(),
        "verified": run.verified,
        "gathered": run.gathered,
        "replays": run.replays,
    }
    if run.pulled:
        told["pull_backs"] = run.pulled
    if options.checkpoint is not None:  # whose file needed it anyway
        told["model"] = model_hash(subject)
    _log(told)
    return told


def _log(told: dict[str, Any]) -> None:
    """The end of a run, and what was noticed, for those who listen to `fastgradnorm`."""
    counted = told["parameters"]
    _LOG.info(
        "scored a pool in %.2f s on %s, over %d elements of %d parameters; verified: %s",
        told["seconds"],
        told["device"],
        counted["elements"],
        counted["tensors"],
        (told["verified"] or {}).get("mode", "nothing"),
    )
    for found in told["findings"]:
        _LOG.info("noticed (%s): %s", found["kind"], found["message"])


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
