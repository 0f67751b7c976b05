"""Learning curves of several runs: mean and spread per strategy."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastgradnorm import ArgumentError
from fastgradnorm.active._records import Run


def plot(
    runs: Sequence[Run],
    metric: str | None = None,
    *,
    ax: Any = None,
    path: str | Path | None = None,
) -> Any:
    """Draws a metric against the number of labels, a line a strategy: the mean over its runs.

    The band is one standard deviation of the runs to each side.

    Args:
        runs: Of one task, as `load_runs` or `ActiveLearner.run` return them. Of runs of different
            length, the points that all runs of a strategy have are drawn.
        metric: By default the headline.
        ax: Axes of matplotlib to draw into; by default new ones.
        path: Save the figure there.

    Returns:
        The axes.

    Raises:
        ValueError: If there are no runs, or of several tasks.
        ModuleNotFoundError: If matplotlib is missing.
    """
    tasks = sorted({run.task for run in runs})
    if len(tasks) != 1:
        raise ArgumentError(f"`runs` must be of one task. Got runs of {tasks or 'none'}.", "runs")
    name = metric or runs[0].metrics[0]
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(7, 4.5), layout="constrained").subplots()
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.strategy].append(run)
    for strategy, members in groups.items():
        points = min(len(run.records) for run in members)
        labels = members[0].labelled[:points]
        curves = np.stack([run.curve(name)[:points] for run in members])
        mean, spread = curves.mean(0), curves.std(0, ddof=1) if len(members) > 1 else 0
        (line,) = ax.plot(labels, mean, marker=".", label=f"{strategy} ({len(members)})")
        ax.fill_between(labels, mean - spread, mean + spread, color=line.get_color(), alpha=0.15)
    ax.set(xlabel="labels", ylabel=name, title=tasks[0])
    ax.legend(fontsize="small")
    if path is not None:
        ax.figure.savefig(path, dpi=150)
    return ax
