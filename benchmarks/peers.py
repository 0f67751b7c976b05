"""Our scores beside other packages' per-sample gradients, on the same job, paired.

    python -m benchmarks peers [--case resnet18]

The job: the `expected` score of the same samples (one squared norm a sample and class), and one
gradient norm a sample (`entropy`), which is what the packages are made for. Each runs in the form,
the way and the batch size in which it is fastest of those tried: batch normalisation in eval mode
may be rewritten as an affine layer (`twins.py`), several losses may share a forward pass, and the
batch may be taken in pieces. Its error is that of the scores made from its norms.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import tables, timing
from benchmarks.cases import CASES, TINY, Case, first, logits, pieces
from benchmarks.columns import (
    CHECKED,
    Column,
    Columns,
    floor_columns,
    relative_error,
)
from benchmarks.engines import ENGINES, Engine
from benchmarks.engines.contract import (
    Loss,
    SqNorms,
    entropy_loss,
    expected,
    first_line,
    label_losses,
)
from benchmarks.measuring import Row, measure
from benchmarks.provenance import RESULTS
from benchmarks.setting import OURS, Setting
from benchmarks.throughput import LEAST, Effort, write
from benchmarks.twins import twins
from benchmarks.usual_memory import usual_memory

CLASSES = 10
SAMPLES = 16  # others take a second for some of them
# Others are timed up to this relative error, shown beside the time; above, it is another sum.
TOLERANCE = 1e-2
NAIVE_SAMPLES = 2
MOST_BYTES = 6 << 30  # of per-sample gradients or Jacobians at a time
FULL = Effort(rounds=7, seconds=45.0)


@dataclass(frozen=True)
class Job:
    """One score as the packages are asked for it."""

    score: str
    losses: Sequence[Loss]
    exact: Tensor

    def scores(self, sq_norms: Tensor, z: Tensor) -> Tensor:
        """`[N]`, from squared norms `[N, K]` and logits."""
        if self.score == "expected":
            return expected(sq_norms, z)[0]
        return sq_norms[:, 0].clamp_min(0).sqrt()


def _bytes_of(engine: Engine, model: nn.Module, job: Job, way: str) -> int:
    """A sample's share of what an engine is known to hold at a time."""
    each = 4 * sum(p.numel() for p in model.parameters())
    at_once = engine.name == "nngeometry" or way == "all classes at once"
    return each * (len(job.losses) if at_once else 1)


def _forms(
    engine: Engine, setting: Setting, job: Job
) -> Iterator[tuple[str, nn.Module, str, list[int]]]:
    """Twins of the model, ways of the engine and batch sizes to try."""
    for form, model in twins(setting.model).items():
        for way in engine.ways:
            most = max(1, MOST_BYTES // _bytes_of(engine, model, job, way))
            most = min(setting.samples, most)
            yield form, model, way, sorted({most, max(1, most // 4), 1}, reverse=True)


def _column(setting: Setting, sq_norms: SqNorms, job: Job, chunk: int) -> Column:
    parts = pieces(setting.batch, chunk)
    with torch.no_grad():
        z = logits(setting.model, setting.batch)

    def run() -> Tensor:
        found = torch.cat([sq_norms(part, job.losses) for part in parts])
        return job.scores(found, z)

    return Column(run, setting.samples, job.score, memory=False)


def fastest(engine: Engine, setting: Setting, job: Job) -> Column:
    """The engine's column in the fastest form that is right.

    Rewritten models are tried only where those before did not run, or were wrong.

    Raises:
        Exception: What the least changed model met, if no form is right.
    """
    best: tuple[float, Column] | None = None
    failure: Exception | None = None
    right_in = None
    for form, model, way, chunks in _forms(engine, setting, job):
        if right_in not in (None, form):
            break
        for chunk in chunks:
            try:
                sq_norms = engine.ways[way](copy.deepcopy(model))
                column = _column(setting, sq_norms, job, chunk)
                # The first samples alone: what is wrong, or not possible, shows soon.
                few = first(setting.batch, CHECKED)
                z = logits(setting.model, few).detach()
                _check(job.scores(sq_norms(few, job.losses), z), job.exact)
                column.error = _check(column.run(), job.exact)
                seconds = timing.clocked(column.run, setting.device)
            except Exception as error:
                failure = failure or error
                continue
            right_in = form
            column.facts = {"way": ", ".join(filter(None, (form, way))), "batch": chunk}
            if best is None or seconds < best[0]:
                best = seconds, column
    if best is None:
        raise failure or RuntimeError("no way to try")
    return best[1]


def _check(scores: Tensor, exact: Tensor) -> float:
    error = relative_error(scores, exact)
    if error > TOLERANCE:
        raise ArithmeticError(f"wrong: relative error {error:.2g}")
    return error


def columns(setting: Setting) -> Columns:
    """Ours, the loop, and every engine on both jobs."""
    found = Columns()
    found.found["forward only"] = Column(setting.forward, setting.samples, memory=False)
    found.found |= floor_columns(setting)
    losses: dict[str, list[Loss]] = {
        "expected": label_losses(setting.classes),
        "entropy": [entropy_loss],
    }
    jobs = [Job(s, losses[s], setting.exact(CHECKED, **OURS[s])) for s in losses]
    for job in jobs:
        options: dict[str, Any] = OURS[job.score]
        ours = Column(setting.stream(**options), setting.samples, memory=False, kept=True)
        found.check(job.score, ours, job.exact)
    few = min(NAIVE_SAMPLES, setting.samples)
    naive = Column(setting.naive(few, **OURS["expected"]), few, "expected", memory=False)
    found.check("naive", naive, jobs[0].exact)
    for engine in ENGINES:
        for job in jobs:
            name = f"{engine.name}, {job.score}"
            if engine.version is None:
                found.refused[name] = "not installed"
                continue
            try:
                with usual_memory():  # in which it will be timed
                    found.found[name] = fastest(engine, setting, job)
            except ArithmeticError as error:
                found.refused[name] = str(error)
            except Exception as error:
                found.refused[name] = first_line(error)
    return found


def main(
    cases: Sequence[Case] | None,
    effort: Effort = FULL,
    *,
    classes: int = CLASSES,
    batch: int | None = None,
    folder: Path | None = RESULTS,
) -> int:
    """Measures, prints and stores; 1 if a score of ours is wrong."""
    rows: list[Row] = []
    for case in cases or CASES.values():
        setting = Setting(case, classes, batch or SAMPLES)
        found = measure(setting, columns(setting), effort.rounds, effort.seconds)
        print(tables.terminal(found))
        print(tables.fastest_rivals(found), end="\n\n", flush=True)
        rows += found
    if folder is not None:
        write("peers", rows, folder, keep=cases is not None)
    wrong = {row["column"] for row in rows if row.get("reason", "").startswith("wrong")}
    return int(bool(wrong & {"expected", "entropy", "naive"}))


def tiny(folder: Path | None) -> int:
    """Every step on a model of a few hundred parameters."""
    return main([TINY], LEAST, classes=3, folder=folder)
