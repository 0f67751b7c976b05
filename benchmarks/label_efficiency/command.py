"""The command line of `python -m benchmarks label-efficiency`."""

import argparse
import sys
from pathlib import Path

from benchmarks.label_efficiency import bands, report
from benchmarks.label_efficiency.data_files import VARIABLE, DataMissing, data_root
from benchmarks.label_efficiency.tasks import GROUPS, TASKS
from benchmarks.provenance import RESULTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "task",
        choices=(*TASKS, *GROUPS, "report", "pictures"),
        help="`report`: the page only; `pictures`: those of docs/experiments.md only",
    )
    parser.add_argument("--data-root", type=Path, help=f"default: ${VARIABLE}, else data/")
    parser.add_argument("--seeds", type=int, help="default: those of the page; with --quick 2")
    parser.add_argument("--strategies", nargs="+", help="default: those of the page")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes of one thread; default: 2"
    )
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing stored")
    parser.add_argument(
        "--regimes",
        action="store_true",
        help="all strategies, 20 seeds of digits and 8 of others, kept apart in results/regimes",
    )
    parser.add_argument(
        "--confirm",
        action="store_true",
        help="the default on tasks that it was not chosen on, from seed 100 on, kept apart in "
        "results/confirmation or results/harder",
    )
    parser.add_argument(
        "--full-model",
        action="store_true",
        help="norms and sketches of all parameters beside those of the last layer, from seed 100 "
        "on, kept apart in results/full_model",
    )
    parser.add_argument("--resume", action="store_true", help="go on where a command was stopped")


def main(arguments: argparse.Namespace) -> int:
    """Runs the tasks, stores their curves, and writes the page."""
    if arguments.task == "report":
        print(f"written: {report.write()}")
        return 0
    if arguments.task == "pictures":
        for place in bands.draw_all(RESULTS):
            print(f"written: {place}")
        return 0
    from benchmarks.label_efficiency import runner

    settings = runner.Settings(
        root=data_root(arguments.data_root),
        seeds=arguments.seeds or (2 if arguments.quick else None),
        strategies=tuple(arguments.strategies) if arguments.strategies else None,
        workers=arguments.workers,
        device=arguments.device,
        quick=arguments.quick,
        resume=arguments.resume,
        runs=runner.RUNS,
    )
    if arguments.regimes:
        settings = runner.of_regimes(settings, arguments.task)
    if arguments.confirm:
        settings = runner.of_confirmation(settings, arguments.task)
    if arguments.full_model:
        settings = runner.of_full_model(settings, arguments.task)
    failed = False
    for name in GROUPS.get(arguments.task, (arguments.task,)):
        try:
            outcome = runner.run_task(name, settings)
        except DataMissing as error:
            print(f"{name} skipped: {error}", file=sys.stderr)
            failed = failed or arguments.task == name
            continue
        failed = failed or bool(outcome.failures)
        if not outcome.results.curves:
            continue
        print(report.terminal(outcome.results), flush=True)
        if not (arguments.quick or arguments.no_store):
            print(f"written: {runner.store_results(outcome.results, settings)}")
            if arguments.regimes or arguments.confirm or arguments.full_model:
                continue
            print(f"written: {report.write()}", flush=True)
    return int(failed)
