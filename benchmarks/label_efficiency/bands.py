"""Pictures of `docs/experiments.md`: learning curves with bands, from stored results."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.label_efficiency.curves import Curve, Results, load_all
from benchmarks.label_efficiency.regimes import DEFAULT, SUFFIXES, of_page, told
from benchmarks.label_efficiency.statistics import t_interval

PICTURES = Path(__file__).parents[2] / "docs" / "pictures" / "experiments"
# Okabe and Ito's colours, told apart with any colour vision; a form of line each, for print.
LOOKS = {
    DEFAULT: ("#0072B2", "-"), "random": ("#000000", ":"), "margin": ("#D55E00", "--"),
    "badge": ("#CC79A7", "-."), "entropy": ("#E69F00", (0, (5, 1))),
    "expected/last_layer/top": ("#009E73", (0, (1, 1))),
    "expected/all/top": ("#009E73", "--"),
    "expected/all/herding": ("#56B4E9", "-"),
    "sketch/predicted/all/maxherding": ("#CC79A7", (0, (3, 1, 1, 1))),
    "entropy_gradnorm/all/top": ("#E69F00", "--"), "published": ("#D55E00", "-."),
    "maxherding": ("#56B4E9", (0, (3, 1, 1, 1))),
}  # fmt: skip


def draw_all(folder: Path, pictures: Path = PICTURES) -> list[Path]:
    """Draws each task of the folders of stored results that docs/experiments.md tells of."""
    return [
        draw(results, pictures, SUFFIXES[name])
        for name in SUFFIXES
        for results in load_all(folder / name)
        if of_page(results)
    ]


def draw(results: Results, pictures: Path, suffix: str = "") -> Path:
    """Left the means over seeds, right the paired differences to random; bands of 95 %."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    random = results.of("random")
    for name in told(results):
        if name not in LOOKS:
            continue
        mine = results.of(name)
        _curve(left, mine, name, {seed: 0 * np.array(c.headline) for seed, c in mine.items()})
        if name != "random":
            _curve(right, mine, name, {seed: np.array(c.headline) for seed, c in random.items()})
    left.set(xlabel="labels", ylabel=f"{results.metric}, %")
    right.set(xlabel="labels", ylabel="points above random, paired by seed")
    right.axhline(0, color="black", linewidth=1, linestyle=":")
    for axes in (left, right):
        axes.grid(alpha=0.25)
    names = left.get_legend_handles_labels()
    figure.legend(*names, loc="outside right center", fontsize="small", frameon=False)
    place = pictures / f"{results.task}{suffix}.png"
    _save(figure, place)
    plt.close(figure)
    return place


def _curve(axes: Any, curves: Mapping[int, Curve], name: str, base: Mapping[int, Any]) -> None:
    seeds = [seed for seed in sorted(curves) if seed in base]
    values = np.array([100 * (np.array(curves[seed].headline) - base[seed]) for seed in seeds])
    each = [t_interval(column.tolist()) for column in values.T]
    color, line = LOOKS[name]
    labels = curves[seeds[0]].labels
    shown = f"{name} (default)" if name == DEFAULT else name
    axes.plot(labels, [e.mean for e in each], color=color, linestyle=line, label=shown, lw=1.6)
    bounds = [e.low for e in each], [e.high for e in each]
    axes.fill_between(labels, *bounds, color=color, alpha=0.09, linewidth=0)


def _save(figure: Any, place: Path) -> None:
    from PIL import Image

    raw = io.BytesIO()
    figure.savefig(raw, dpi=110)
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.open(raw).convert("RGB").quantize(256).save(place, optimize=True)
