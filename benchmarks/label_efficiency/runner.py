"""Runs strategies from several seeds in worker processes, resumably, and stores the curves."""

import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.label_efficiency.arrays import ArrayTask
from benchmarks.label_efficiency.curves import RESULTS, Results, from_run, load, store
from benchmarks.label_efficiency.tasks import (
    EXTENTS,
    FIRST_CONFIRMED,
    FULL_MODEL,
    HARDER,
    REGIMES,
    make,
)
from benchmarks.provenance import RESULTS as ALL_RESULTS
from benchmarks.provenance import provenance
from fastgradnorm.active import ActiveLearner, Run, load_runs

RUNS = Path(__file__).parent / "runs"


@dataclass(frozen=True)
class Settings:
    """Of one command.

    Attributes:
        root: Folder of the data.
        seeds: How many; None: as many as the task's page has.
        first_seed: The smallest.
        strategies: Names that `fastgradnorm.active.strategy` knows; None: those of the page.
        workers: Processes of one thread each; 0 runs in this process.
        device: Of the networks.
        quick: See `tasks.make`.
        resume: Go on with what is in `runs`, and keep other stored curves of the same plan.
        runs: Folder of the learners' files.
        results: Folder of the stored curves.
        progress: Show a bar.
    """

    root: Path
    seeds: int | None = None
    first_seed: int = 0
    strategies: tuple[str, ...] | None = None
    workers: int = 2
    device: str = "cpu"
    quick: bool = False
    resume: bool = False
    runs: Path = RUNS
    results: Path = RESULTS
    progress: bool = True


def of_regimes(settings: Settings, task: str) -> Settings:
    """The same for the comparison of regimes: all strategies, kept apart."""
    return replace(
        settings,
        seeds=settings.seeds or (20 if task.startswith("digits") else 8),
        strategies=settings.strategies or REGIMES,
        runs=settings.runs / "regimes",
        results=ALL_RESULTS / "regimes",
    )


def of_confirmation(settings: Settings, task: str) -> Settings:
    """The same for tasks that had no part in choosing the default: other seeds, kept apart."""
    family = "harder" if task in (*HARDER, "harder") else "confirmation"
    return replace(
        settings,
        first_seed=FIRST_CONFIRMED,
        runs=settings.runs / family,
        results=ALL_RESULTS / family,
    )


def of_full_model(settings: Settings, task: str) -> Settings:
    """The same for gradients of all parameters: on tasks of both regimes, from fresh seeds."""
    return replace(
        settings,
        first_seed=FIRST_CONFIRMED,
        seeds=settings.seeds or (8 if task.endswith("_paper") else 16),
        strategies=settings.strategies or FULL_MODEL,
        runs=settings.runs / "full_model",
        results=ALL_RESULTS / "full_model",
    )


@dataclass
class Outcome:
    """What a command did: its results, and the message of each run that failed."""

    results: Results
    failures: list[str] = field(default_factory=list)


def run_task(name: str, settings: Settings) -> Outcome:
    """Runs one task's strategies from all seeds; those of a seed are comparable in pairs.

    Raises:
        DataMissing: If the task's data are not there.
    """
    task = make(name, settings.root, settings.device, settings.quick)
    extent = EXTENTS[name]
    first = settings.first_seed
    seeds = range(first, first + (settings.seeds or extent.seeds))
    strategies = settings.strategies or extent.strategies
    folder = settings.runs / (task.name + ("_quick" if settings.quick else ""))
    if not settings.resume:
        shutil.rmtree(folder, ignore_errors=True)
    # Seed by seed: a command that is stopped leaves whole pairs.
    jobs = [(strategy, seed) for seed in seeds for strategy in strategies]
    failures: list[str] = []
    done = _in_processes if settings.workers else _in_this_process
    bar = tqdm(total=len(jobs), desc=task.name, unit="run", disable=not settings.progress)
    with bar:
        for (strategy, seed), error in done(name, task, folder, jobs, settings):
            bar.update()
            bar.set_postfix_str(f"{strategy}, seed {seed}")
            if error is not None:
                failures.append(f"{strategy}, seed {seed}: {error!r}")
                bar.write(f"failed: {failures[-1]}")
    return Outcome(_gathered(name, task, folder, strategies, settings), failures)


def store_results(results: Results, settings: Settings) -> Path:
    """Writes the curves, beside stored ones of other strategies or seeds when resuming."""
    stored = settings.results / f"{results.task}.json"
    if settings.resume and stored.exists():
        old = load(stored)
        new = {(curve.strategy, curve.seed) for curve in results.curves}
        if old.facts["plan"] == results.facts["plan"]:
            kept = [c for c in old.curves if (c.strategy, c.seed) not in new]
            results = Results(results.task, results.facts, (*results.curves, *kept))
    return store(results, settings.results)


Job = tuple[str, int]


def _in_this_process(
    name: str, task: ArrayTask, folder: Path, jobs: list[Job], settings: Settings
) -> Iterator[tuple[Job, Exception | None]]:
    for job in jobs:
        try:
            _learn(task, folder, *job)
        except Exception as error:  # the others still run
            yield job, error
        else:
            yield job, None


def _in_processes(
    name: str, task: ArrayTask, folder: Path, jobs: list[Job], settings: Settings
) -> Iterator[tuple[Job, BaseException | None]]:
    context = multiprocessing.get_context("spawn")
    arguments = (name, settings.root, settings.device, settings.quick)
    with ProcessPoolExecutor(settings.workers, context, _prepare, arguments) as pool:
        futures: dict[Future[None], Job] = {
            pool.submit(_learn_prepared, folder, *job): job for job in jobs
        }
        for future in as_completed(futures):
            yield futures[future], future.exception()


_task: ArrayTask | None = None  # of a worker process, loaded once


def _prepare(*arguments: Any) -> None:
    global _task
    torch.set_num_threads(1)
    _task = make(*arguments)


def _learn_prepared(folder: Path, strategy: str, seed: int) -> None:
    assert _task is not None
    _learn(_task, folder, strategy, seed)


def _learn(task: ArrayTask, folder: Path, strategy: str, seed: int) -> None:
    plan = task.plan
    ActiveLearner(
        task,
        strategy,
        start=plan.start,
        budget=plan.budget,
        cycles=plan.cycles,
        subset=plan.subset,
        seed=seed,
        run_file=folder / f"{strategy.replace('/', '.')}-{seed}.jsonl",
        progress=False,
    ).run()


def _gathered(
    name: str, task: ArrayTask, folder: Path, strategies: Sequence[str], settings: Settings
) -> Results:
    """The complete runs in a folder, in the order of strategies and seeds."""
    runs = [
        run
        for run in load_runs(*sorted(folder.glob("*.jsonl")))
        if len(run.records) == task.plan.cycles + 1
    ]
    order = {strategy: i for i, strategy in enumerate(strategies)}
    runs.sort(key=lambda run: (order.get(run.strategy, len(order)), run.strategy, run.seed))
    facts = {
        "title": task.title,
        "command": name,
        "plan": asdict(task.plan),
        "pool": len(task.train_set),
        "test": len(task.test_set),
        "workers": max(1, settings.workers),
        "core_seconds": round(sum(map(_seconds, runs)), 1),
        "provenance": provenance(settings.device),
    }
    return Results(task.name, facts, tuple(from_run(run) for run in runs))


def _seconds(run: Run) -> float:
    whats = ("train", "score", "select", "evaluate")
    return float(sum(run.seconds(what).sum() for what in whats))
