"""Kernels compiled before anything is timed, in several processes: compilation takes longest."""

from typing import Any

import torch

from benchmarks.gpu import exact, heads, kernels, precision, sweep
from benchmarks.gpu.kernel_cases import cases
from benchmarks.gpu.large_models import case
from benchmarks.gpu.report import Report
from benchmarks.setting import Setting

SLICES = 4
MODES = {
    "bf16": precision.BF16,
    "ieee": precision.IEEE,
    "float32": precision.FLOAT32,
    "tf32": precision.TF32,
}
# Passes of 64 samples at most: the sizes that kernels are specialised on are those of large ones.
MODELS = [
    *(f"resnet18:{mode}:64:auto" for mode in ("bf16", "ieee", "tf32")),
    *(f"vit_b:{mode}:16:auto" for mode in ("bf16", "ieee")),
    *(f"bert128:{mode}:16:auto" for mode in ("bf16", "ieee")),
    *("resnet50:bf16:16:auto", "resnet18:float32:64:triton", "vit_b:float32:16:triton"),
]


def wanted(parts: list[str]) -> list[str]:
    """What to warm for these parts, what is timed first at the front."""
    found = []
    if {"launches", "throughput"} & {*parts}:
        found += MODELS
    sliced = {"heads": heads.SLICES, "kernels": SLICES, "sweep": SLICES, "exact": exact.SLICES}
    for part, slices in sliced.items():
        if part in parts:
            found += [f"{part}:{i}" for i in range(slices)]
    return found


def one(report: Report, what: str) -> None:
    """Runs everything of one kind once."""
    kind, *rest = what.split(":")
    if kind == "kernels":
        found = kernels.ordered(cases(torch.device(report.device), report.dry))
        for each in found[int(rest[0]) :: SLICES]:
            _step(report, f"{each.operation}, {each.shape}, {each.dtype}", _call(each))
    elif kind in ("heads", "exact"):
        {"heads": heads, "exact": exact}[kind].warm(report, int(rest[0]))
    elif kind == "sweep":
        sweep.warm(report, int(rest[0]), SLICES)
    else:
        mode, samples, backend = MODES[rest[0]], int(rest[1]), rest[2]
        with report.step(what), mode.set():
            setting = Setting(
                case(kind, report.dry), 10, 2 if report.dry else samples, report.device
            )
            for scheme in ("expected", "entropy"):
                setting.stream(scheme=scheme, autocast=mode.autocast, backend=backend)()


def _call(each: Any) -> Any:
    return lambda: each.kernel(*each.make())


def _step(report: Report, key: str, call: Any) -> None:
    if report.wanted(key, 1):
        with report.step(key):
            call()
        if not report.dry:
            torch.cuda.empty_cache()
