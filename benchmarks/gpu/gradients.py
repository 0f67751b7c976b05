"""What per-sample gradients of a loss cost beside one training step on the same batch.

A figure is a whole call over a few equal batches on the device, as a user makes it: what a call
plans and captures is in it. Steps are timed in turn with them, and ratios are medians over rounds.
Batches hold the same samples in other orders: what is replayed is held against what was not.
"""

import copy
import gc
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import timing
from benchmarks.cases import move
from benchmarks.engines.contract import label_losses
from benchmarks.engines.transformed import per_sample_gradients
from benchmarks.footprint import peak_bytes
from benchmarks.gpu import baselines, precision
from benchmarks.gpu.gradients_exact import (
    CHECKED,
    Direction,
    apart,
    between,
    exact,
    work,
)
from benchmarks.gpu.large_models import case
from benchmarks.gpu.precision import Mode
from benchmarks.gpu.report import Report
from benchmarks.setting import Setting
from fastgradnorm import (
    GradNormScorer,
    SlowPathWarning,
    gradient_dots,
    gradient_sketch,
    score_pool,
)

CLASSES, MANY, DIM = 10, 16, 512
BATCHES = 4  # of a call
# Of two calls whose difference is told. In bfloat16, where a pass is captured before it is replayed
# and that takes as long as many passes, both are longer.
SHORT, LONG = (4, 12), (12, 28)
ROUNDS = 5
COLD, LONGEST = 10.0, 4.0  # seconds of a first call, and of one that is timed more than once
NORM, DOTS, SKETCH, BOTH = "loss norm", f"products with {MANY}", "sketch", "norm and sketch"
STEP, VMAP = "training step", "vmap(grad)"
CELLS: list[tuple[str, int, Mode]] = [
    ("bert128", 64, precision.BF16),
    ("resnet50", 64, precision.BF16),
    ("bert128", 64, precision.IEEE),
    ("resnet50", 64, precision.IEEE),
    ("vit_b", 64, precision.BF16),
    ("resnet18", 512, precision.BF16),
    ("vit_b", 64, precision.IEEE),
    ("resnet18", 512, precision.IEEE),
]
Call = Callable[[Sequence[Any]], Any]  # of batches


def run(report: Report) -> None:
    """One row a model and mode."""
    for name, batch, mode in CELLS[:4:3] if report.dry else CELLS:
        key = f"{name}, batch {batch}, {mode.name}"
        if report.wanted(key, 0 if report.dry else 8):
            with report.step(key) as row, mode.set():
                samples = CHECKED if report.dry else batch
                setting = Setting(case(name, report.dry), CLASSES, samples, report.device)
                cell(row, setting, mode, report)
        _free(report.device)


def cell(row: dict[str, Any], setting: Setting, mode: Mode, report: Report) -> None:
    """Fills in one row: figures beside the step, errors, memory, and why something is missing."""
    dim = 16 if report.dry else DIM
    figures, reasons, found = dict[str, dict[str, Any]](), dict[str, str](), dict[str, Any]()
    row |= {"model": setting.case.title, "batch": setting.samples, "mode": mode.name}
    row |= {"batches": BATCHES, "dim": dim, "step": {}, "figures": figures}
    row["reasons"] = reasons
    given = work(setting, BATCHES, MANY)
    pool, calls = given.pool, _calls(setting.model, given.directions, dim, mode)
    runs = dict[str, baselines.Run]()
    with _told(reasons, STEP):
        row["layout"], step = baselines.fastest(setting, mode, baselines.training)
        runs[STEP] = lambda: [step() for _ in range(BATCHES)]
    for name, call in calls.items():
        with _told(reasons, name):
            found[name], figures[name] = _warm(name, call, pool, report)
            if "seconds" not in figures[name]:
                runs[name] = partial(call, pool)
    _compare(row, _rounds(runs, reasons, report))
    _longer(row, calls, pool, mode, report)
    with _told(reasons, "facts"):
        scored = GradNormScorer(setting.model, **_options(mode)).score(pool)
        row |= {name: scored.provenance[name] for name in ("gathered", "replays")}
    with _told(reasons, "error"):
        _check(figures, found, exact(setting, given, dim))
    if STEP in runs:
        with _told(reasons, f"{STEP}, memory"):
            row["step"]["peak_bytes"] = peak_bytes(runs[STEP], report.device)
    _memory(row, calls, pool, setting, mode)


def _free(device: str) -> None:
    """Lets go of what is not used any more, captured passes too."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def _told(reasons: dict[str, str], name: str) -> Iterator[None]:
    """What is raised inside becomes a reason; nothing else of it is kept, such as tensors."""
    try:
        yield
    except Exception as error:
        reasons[name] = f"{type(error).__name__}: {str(error)[:300]}"


def _options(mode: Mode) -> dict[str, Any]:
    how = {"autocast": mode.autocast, "progress": False, "verify": False}
    return {"loss": "cross_entropy", **how}


def _calls(model: nn.Module, directions: list[Direction], dim: int, mode: Mode) -> dict[str, Call]:
    """Our functions, by figure."""
    options = _options(mode)
    return {
        NORM: lambda pool: score_pool(model, pool, **options),
        DOTS: lambda pool: gradient_dots(model, pool, directions, **options),
        SKETCH: lambda pool: gradient_sketch(model, pool, dim, **options),
        BOTH: lambda pool: gradient_sketch(model, pool, dim, norms=True, **options),
    }


def _warm(name: str, call: Call, pool: Sequence[Any], report: Report) -> tuple[Any, dict[str, Any]]:
    """What a first call returns, and what it takes; the only reading where that is long."""
    facts: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        timing.wait(report.device)
        start = time.perf_counter()
        found = call(pool)
        timing.wait(report.device)
        facts["first_seconds"] = time.perf_counter() - start
    slow = [str(w.message)[-300:] for w in told if issubclass(w.category, SlowPathWarning)]
    facts |= {"slow": slow} if slow else {}
    if facts["first_seconds"] > COLD:  # kernels are compiled in it, or it is slow
        seconds = timing.clocked(partial(call, pool), report.device)
        facts |= {"seconds": seconds / BATCHES, "rounds": 1} if seconds > LONGEST else {}
    return found, facts


def _rounds(
    runs: dict[str, baselines.Run], reasons: dict[str, str], report: Report
) -> dict[str, list[float]]:
    """Seconds of each, once a round, in turn; what fails meanwhile is left out of all rounds."""
    clocks: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(1 if report.dry else ROUNDS):
        if i and not report.dry and report.left < 5:
            break
        names = list(clocks)
        for name in names[i % len(names) :] + names[: i % len(names)] if names else []:
            with _told(reasons, name):
                clocks[name].append(timing.clocked(runs[name], report.device))
        clocks = {name: seconds for name, seconds in clocks.items() if len(seconds) == i + 1}
    return clocks


def _compare(row: dict[str, Any], clocks: dict[str, list[float]]) -> None:
    """Seconds of a batch, samples a second, and how many steps that is."""
    steps, step = clocks.get(STEP), row["step"]
    for name, seconds in clocks.items():
        told = step if name == STEP else row["figures"][name]
        told["seconds"] = timing.quantile(seconds, 0.5) / BATCHES
        told["rounds"] = len(seconds)
        if steps is not None and name != STEP:
            ratios = [a / b for a, b in zip(seconds, steps, strict=True)]
            told["over_step"] = timing.quantile(ratios, 0.5)
            told |= {"least": min(ratios), "most": max(ratios)}
    for told in (step, *row["figures"].values()):
        if "seconds" in told:
            told["samples_per_second"] = row["batch"] / told["seconds"]
            if "seconds" in step and told is not step:
                told.setdefault("over_step", told["seconds"] / step["seconds"])


def _longer(
    row: dict[str, Any], calls: dict[str, Call], pool: list[Any], mode: Mode, report: Report
) -> None:
    """What each further batch takes: a call over more beside one over fewer, without its start."""
    few, many = SHORT if mode.autocast is None else LONG
    for name, facts in row["figures"].items():
        seconds = facts.get("seconds")
        if seconds is None or name == SKETCH:  # which "norm and sketch" has in it
            continue
        if not report.dry and report.left < 3 + (few + many) * seconds:
            row["reasons"][f"{name}, further batches"] = "no time"
            continue
        with _told(row["reasons"], f"{name}, further batches"):
            took = [
                timing.clocked(partial(calls[name], (pool * count)[:count]), report.device)
                for count in (few, many)
            ]
            facts["further_seconds"] = (took[1] - took[0]) / (many - few)


def _check(
    figures: dict[str, dict[str, Any]], found: dict[str, Any], right: dict[str, Tensor]
) -> None:
    """Errors of the first samples, relative to what is exact, and of equal samples to each other.

    The exact sketch is of one sample.
    """
    kinds = {NORM: "norms", DOTS: "products", SKETCH: "sketches"}
    for name, result in found.items():
        wholes = {SKETCH: result[0], NORM: result[1]} if name == BOTH else {name: result}
        errors = [apart(values, right[kinds[kind]]) for kind, values in wholes.items()]
        figures[name]["error"] = max(errors)
        orders = [between(values, BATCHES) for values in wholes.values()]
        figures[name]["orders_differ"] = max(orders)


def _memory(
    row: dict[str, Any], calls: dict[str, Call], pool: list[Any], setting: Setting, mode: Mode
) -> None:
    """Peak bytes of one batch: of our figures, of a step, and of all gradients at once."""
    reasons, device = row["reasons"], setting.device
    for name, facts in row["figures"].items():
        with _told(reasons, f"{name}, memory"):
            facts["peak_bytes"] = peak_bytes(partial(calls[name], pool[:1]), device)
    _free(device)
    with _told(reasons, VMAP):
        # Under `vmap`, autocast leaves operands of two types; so the model itself is narrow.
        model = copy.deepcopy(setting.model).to(dtype=mode.autocast)
        given = move(setting.batch, device, mode.autocast)
        if isinstance(given, dict):  # the model reads whether a mask masks, which `vmap` cannot
            given = {"input_ids": given["input_ids"]}
        gradients = per_sample_gradients(model, label_losses(CLASSES)[0])
        row["vmap_peak_bytes"] = peak_bytes(partial(gradients, given), device)


def table(document: dict[str, Any]) -> list[str]:
    """A block a row: a line a figure, then what is missing."""
    lines = []
    for row in document["rows"]:
        step = row.get("step", {})
        lines.append(
            f"{row['key']}: a step ({row.get('layout')}) {_number(step, 'seconds', 1e3)} ms, "
            f"{_number(step, 'samples_per_second', 1, 0)}/s, peak {_peak(step)}; {VMAP} "
            f"{_peak({'peak_bytes': row.get('vmap_peak_bytes')})}; gathered "
            f"{row.get('gathered')}, replays {row.get('replays')}"[:400]
        )
        lines += [_line(name, facts, step) for name, facts in row.get("figures", {}).items()]
        lines += [f"    {name}: {why[:160]}" for name, why in row.get("reasons", {}).items()]
    return lines


def _line(name: str, facts: dict[str, Any], step: dict[str, Any]) -> str:
    further = facts.get("further_seconds")
    ratio = "-" if further is None or "seconds" not in step else f"{further / step['seconds']:.2f}"
    error, differ = (facts.get(key, float("nan")) for key in ("error", "orders_differ"))
    return (
        f"    {name:<16} {_number(facts, 'over_step'):>6} steps ({_number(facts, 'least')} to "
        f"{_number(facts, 'most')}), further batches {ratio}, "
        f"{_number(facts, 'samples_per_second', 1, 0)}/s, peak {_peak(facts)}, "
        f"error {error:.0e}, orders {differ:.0e}, first {_number(facts, 'first_seconds')} s"
        + (f", SLOW {facts['slow'][0][:120]}" if "slow" in facts else "")
    )


def _number(facts: dict[str, Any], key: str, times: float = 1.0, digits: int = 2) -> str:
    value = facts.get(key)
    return "-" if value is None else f"{times * value:.{digits}f}"


def _peak(facts: dict[str, Any]) -> str:
    value = facts.get("peak_bytes")
    return "-" if value is None else f"{value / 2**30:.2f} GiB"


def summary(document: dict[str, Any]) -> list[str]:
    """A line a row: how many steps each figure takes, and its error."""
    lines = []
    for row in document["rows"]:
        parts = [
            f"{name} {_number(facts, 'over_step')} steps"
            + (f" (error {facts['error']:.0e})" if "error" in facts else "")
            for name, facts in row.get("figures", {}).items()
        ]
        lines.append(f"{row['key']}: {', '.join(parts) or 'nothing'}")
    return lines
