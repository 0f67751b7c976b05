"""The tables that the demo prints."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastgradnorm.demo._learning import STRATEGIES
from fastgradnorm.demo._results import Results
from fastgradnorm.demo._wording import PARAMS, headline, percent, rate

WIDTH = 100


def print_results(console: Console, results: Results) -> None:
    """Print speed, accuracy and one sentence on what the choice is worth."""
    console.print(_speed_table(results))
    console.print()
    console.print(_accuracy_table(results))
    console.print()
    console.print(Text(headline(results)))


def _speed_table(results: Results) -> Table:
    table = Table(
        title=f"Scoring {len(results.pool.scores):,} images",
        caption=f"loop: plain autograd, samples/s, on {results.settings.loop_images} of them. "
        "difference: largest relative one, from the loop in float64.",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("parameters")
    table.add_column("scheme", no_wrap=True)
    for name in ("samples/s", "loop", "speed-up", "difference"):
        table.add_column(name, justify="right")
    for speed in results.speeds:
        table.add_row(
            PARAMS[speed.params],
            speed.scheme,
            rate(speed.samples_per_second),
            rate(speed.loop_samples_per_second),
            f"{speed.speedup:.1f}x",
            f"{speed.largest_relative_difference:.1e}",
        )
    return table


def _accuracy_table(results: Results) -> Table:
    seeds = results.settings.seeds
    table = Table(
        title=f"Accuracy on {results.settings.test_images} held-out images, by number of labels, %",
        caption=f"Mean ± standard deviation, {seeds} seeds." if seeds > 1 else "One seed.",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("labels", no_wrap=True)
    for count in results.settings.label_counts:
        table.add_column(str(count), justify="right", no_wrap=True)
    for strategy, name in STRATEGIES.items():
        curve = results.curve(strategy)
        points = range(len(curve.means))
        table.add_row(name, *(percent(curve, point) for point in points))
    return table
