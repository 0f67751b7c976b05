"""The charts, each for a light and for a dark page."""

from functools import partial
from io import BytesIO

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatterMathtext, PercentFormatter
from torch import Tensor

from fastgradnorm.demo._learning import STRATEGIES
from fastgradnorm.demo._results import Results
from fastgradnorm.page.themes import Theme, draw

_FLOOR = 1e-12  # what a zero becomes on a logarithmic axis
_MARKERS = ("o", "s", "D", "^")


def draw_figures(results: Results, theme: Theme) -> dict[str, bytes]:
    """PNG images by name: ``accuracy``, ``histogram``, ``entropy``."""
    drawings = {
        "accuracy": _draw_accuracy,
        "histogram": _draw_histogram,
        "entropy": _draw_entropy,
    }
    return {name: draw(partial(drawing, results), theme) for name, drawing in drawings.items()}


def draw_digit(image: Tensor) -> bytes:
    """One digit ``[1, 8, 8]`` as a PNG of 8 x 8 pixels, ink on paper."""
    buffer = BytesIO()
    matplotlib.image.imsave(buffer, 1 - image[0].numpy(), cmap="gray", vmin=0, vmax=1, format="png")
    return buffer.getvalue()


def _draw_accuracy(results: Results, axes: Axes, theme: Theme) -> None:
    labels = np.array(results.settings.label_counts)
    nudge = 0.035 * results.settings.labels_per_step
    for place, (strategy, name) in enumerate(STRATEGIES.items()):
        curve = results.curve(strategy)
        axes.errorbar(
            labels + (place - 1.5) * nudge,
            curve.means,
            yerr=curve.spreads,
            label=name,
            color=theme.series[place],
            marker=_MARKERS[place],
            markersize=5,
            linewidth=1.8,
            elinewidth=1,
            capsize=2.5,
        )
    axes.set_xticks(labels)
    axes.set_xlabel("labels")
    axes.set_ylabel("accuracy on held-out images")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.legend(loc="lower right")


def _draw_histogram(results: Results, axes: Axes, theme: Theme) -> None:
    pool = results.pool
    scores = pool.scores.clamp_min(_FLOOR).numpy()
    wrong = pool.wrong.numpy()
    axes.hist(
        [scores[wrong], scores[~wrong]],
        bins=np.geomspace(scores.min(), scores.max() * 1.001, 33).tolist(),
        stacked=True,
        color=[theme.wrong, theme.right],
        label=["wrong", "right"],
        rwidth=0.9,
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatterMathtext())
    axes.set_xlabel("score")
    axes.set_ylabel("images")
    axes.axvline(_threshold(results), color=theme.ink, linewidth=1, linestyle=(0, (4, 3)))
    axes.legend(loc="upper left", title="prediction")


def _draw_entropy(results: Results, axes: Axes, theme: Theme) -> None:
    pool = results.pool
    scores, entropies = (
        values.clamp_min(_FLOOR).numpy() for values in (pool.scores, pool.entropies)
    )
    for chosen, name, color, marker, size in (
        (~pool.wrong.numpy(), "right", theme.right, "o", 9),
        (pool.wrong.numpy(), "wrong", theme.wrong, "^", 16),
    ):
        axes.scatter(
            entropies[chosen],
            scores[chosen],
            s=size,
            color=color,
            marker=marker,
            linewidths=0,
            alpha=0.85,
            label=name,
        )
    axes.axhline(_threshold(results), color=theme.ink, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xlabel("predictive entropy, nats")
    axes.set_ylabel("score")
    axes.legend(loc="lower right", title="prediction")


def _threshold(results: Results) -> float:
    """The lowest score among the best that the headline comparison labels."""
    count = min(results.settings.start_labels, len(results.pool.order))
    return float(results.pool.scores[results.pool.order[count - 1]].clamp_min(_FLOOR))
