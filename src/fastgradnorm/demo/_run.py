"""The demo from end to end: train, score, compare, report."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from fastgradnorm.atomic import write_text
from fastgradnorm.demo._digits import load_digits
from fastgradnorm.demo._figures import draw_figures
from fastgradnorm.demo._learning import measure_learning
from fastgradnorm.demo._network import accuracy, count_parameters, fit
from fastgradnorm.demo._page import write_page
from fastgradnorm.demo._results import Results, score_digits
from fastgradnorm.demo._settings import Settings
from fastgradnorm.demo._speed import measure_speed
from fastgradnorm.demo._terminal import WIDTH, print_results
from fastgradnorm.demo._watch import ProgressWatch, Watch
from fastgradnorm.page.themes import DARK, LIGHT


def run_demo(out: Path, settings: Settings) -> Results:
    """Run the demo, print its tables, and write its report.

    Args:
        out: Folder for ``index.html``, ``results.json`` and the PNG figures; files of these names
            are overwritten.
        settings: How large the run is.

    Returns:
        What the report shows.

    Raises:
        OSError: If `out` cannot be made or written. Tried before anything else.
    """
    start = perf_counter()
    _check_writable(out)
    console = Console()
    console = Console(width=min(console.width, WIDTH))
    shown = Console(stderr=True)
    with _one_thread(), _progress(shown) as progress:
        results = _measure(settings, ProgressWatch(shown, progress))
    figures = {theme: draw_figures(results, theme) for theme in (LIGHT, DARK)}
    results = replace(results, seconds=perf_counter() - start)
    for theme, images in figures.items():
        for name, png in images.items():
            suffix = "" if theme is LIGHT else f"-{theme.name}"
            (out / f"{name}{suffix}.png").write_bytes(png)
    write_text(out / "results.json", json.dumps(results.to_json(), indent=1))
    page = write_page(out, results, light=figures[LIGHT], dark=figures[DARK])
    print_results(console, results)
    console.print(f"\n{results.seconds:.0f} s. The report is in {page}", soft_wrap=True)
    return results


def _measure(settings: Settings, watch: Watch) -> Results:
    start = perf_counter()
    digits = load_digits(settings)
    labelled, pool = digits.split(settings, seed=0)
    model = fit(
        digits.images[labelled], digits.labels[labelled], steps=settings.train_steps, seed=0
    )
    batches = digits.batches(pool, settings)
    return Results(
        settings=settings,
        parameters=count_parameters(model),
        test_accuracy=accuracy(model, digits.images[digits.test], digits.labels[digits.test]),
        pool=score_digits(model, digits, labelled, pool, settings),
        speeds=measure_speed(model, batches, settings.loop_images, watch),
        curves=measure_learning(digits, settings, watch),
        threads=torch.get_num_threads(),
        seconds=perf_counter() - start,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    # Work this small gains nothing from more, and loses much where other programs run too.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_writable(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
