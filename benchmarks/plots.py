"""Pictures of results: units on every axis, names beside what they name."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.tables import by_case

# Okabe and Ito's colours, told apart with any colour vision.
OURS, FLOOR, OTHER = "#0072B2", "#009E73", "#999999"
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHOWN = ("forward only", "training step", "last layer", "entropy", "floor, expected", "expected",
         "rtol=0.02", "vmap(grad)", "naive")  # fmt: skip
SCALED = ("last layer", "entropy", "floor, expected", "expected", "rtol=0.02", "naive")

Row = dict[str, Any]


@contextmanager
def _figure(path: Path, rows: int, columns: int, width: float, height: float) -> Iterator[Any]:
    """A grid of axes, written to `path` at the end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    size = (width * columns, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    try:
        yield axes
        figure.savefig(path, dpi=120)
    finally:
        plt.close(figure)


def _color(name: str) -> str:
    if name.startswith("floor"):
        return FLOOR
    if name in ("expected", "entropy", "last layer") or name.startswith("rtol"):
        return OURS
    return OTHER


def _bars(axes: Any, names: Sequence[str], values: Sequence[float], texts: Sequence[str]) -> None:
    """Horizontal bars with their names on the left and their values at the end, largest scale."""
    places = range(len(names))
    axes.barh(places, values, color=[_color(name) for name in names])
    for place, value, text in zip(places, values, texts, strict=True):
        axes.annotate(text, (value, place), (3, 0), textcoords="offset points", va="center",
                      fontsize=8)  # fmt: skip
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _source(axes: Any, facts: dict[str, Any]) -> None:
    machine = facts["machine"]
    text = f"{machine['processor']}, {machine['threads']} threads; "
    text += f"torch {facts['versions']['torch']}; commit {facts['commit']}; {facts['date'][:10]}"
    axes.figure.supxlabel(text, fontsize=7, x=0.01, ha="left")


def _curves(axes: Any, curves: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> None:
    """Lines with their names at their right ends, moved apart where they would overlap."""
    ends = []
    for (name, x, y), color in zip(curves, LINES, strict=False):
        axes.plot(x, y, marker="o", markersize=3, color=color)
        ends.append((name, x[-1], y[-1], color))
    axes.figure.canvas.draw()  # scales and limits are known from here on
    points = 72 / axes.figure.dpi
    last = float("-inf")
    for name, x, y, color in sorted(ends, key=lambda end: end[2]):
        height = axes.transData.transform((x, y))[1] * points
        last = max(height, last + 9)
        axes.annotate(name, (x, y), (5, last - height), textcoords="offset points", va="center",
                      fontsize=8, color=color)  # fmt: skip


def _decorate(axes: Any, title: str, x: str, y: str, logarithmic: bool = True) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.grid(alpha=0.3)
    axes.margins(x=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")


def throughput(results: dict[str, Any], path: Path) -> Path:
    """Samples a second of each case at ten classes; below, against the number of classes."""
    cases = by_case([row for row in results["rows"] if "reason" not in row])
    one = {title: rows for title, classes, rows in cases if classes == 10}
    one = one or {f"{title}, {classes} classes": rows for title, classes, rows in cases}
    swept: dict[str, list[tuple[int, list[Row]]]] = {}
    for title, classes, rows in cases:
        swept.setdefault(title, []).append((classes, rows))
    swept = {title: cells for title, cells in swept.items() if len(cells) > 1}
    with _figure(path, 2 if swept else 1, len(one), 3.6, 3.2) as grid:
        for axes, (title, rows) in zip(grid[0], one.items(), strict=True):
            by = {row["column"]: row["samples_per_second"] for row in rows}
            names = [name for name in SHOWN if name in by]
            rates = [by[name] for name in names]
            _bars(axes, names, rates, [f"{value:.3g}" for value in rates])
            axes.set_xscale("log")
            axes.set_title(title, fontsize=9, loc="left")
            axes.set_xlabel("samples per second", fontsize=8)
        for axes in grid[1:].flat:
            axes.set_visible(False)
        for axes, (title, cells) in zip(grid[1:].flat, swept.items(), strict=False):
            axes.set_visible(True)
            _sweep(axes, title, cells)
        _source(grid[0, 0], results["provenance"])
    return path


def _sweep(axes: Any, title: str, cells: list[tuple[int, list[Row]]]) -> None:
    curves = []
    for name in SCALED:
        points = [
            (classes, row["samples_per_second"])
            for classes, rows in cells
            for row in rows
            if row["column"] == name
        ]
        if points:
            curves.append((name, *zip(*points, strict=True)))
    _decorate(axes, title, "classes", "samples per second")
    _curves(axes, curves)


def peers(results: dict[str, Any], path: Path) -> Path:
    """Milliseconds a sample of ours, the floor and other packages, for both jobs."""
    cases = by_case(results["rows"])
    with _figure(path, 2, len(cases), 4.2, 3.4) as grid:
        for column, (title, classes, rows) in enumerate(cases):
            for row_of, score in enumerate(("expected", "entropy")):
                axes = grid[row_of, column]
                _peers(axes, rows, score)
                axes.set_title(f"{title}, {classes} classes: {score}", fontsize=9, loc="left")
                axes.set_xlabel("milliseconds a sample", fontsize=8)
        _source(grid[0, 0], results["provenance"])
    return path


def _peers(axes: Any, rows: Sequence[Row], score: str) -> None:
    names, values, texts = [], [], []
    for row in rows:
        name, _, of = row["column"].rpartition(", ")
        naive = row["column"] == "naive" and score == "expected"
        if row["column"] != score and of != score and not naive:
            continue
        if "not installed" in row.get("reason", ""):
            continue
        names.append(name or row["column"])
        if "reason" in row:
            values.append(0.0)
            texts.append("wrong" if row["reason"].startswith("wrong") else "does not run")
        else:
            values.append(1e3 * row["seconds_median"] / row["samples"])
            ratio = f" ({row['times_ours']:.2g}x ours)" if "times_ours" in row else ""
            texts.append(f"{values[-1]:.3g}{ratio}")
    _bars(axes, names, values, texts)


def memory(results: dict[str, Any], path: Path) -> Path:
    """Peak memory by model."""
    rows = results["rows"]
    models = dict.fromkeys((row["model"], row["title"], row["batch"]) for row in rows)
    with _figure(path, 1, len(models), 5.0, 3.0) as grid:
        for axes, (model, title, batch) in zip(grid[0], models, strict=True):
            mine = [row for row in rows if row["model"] == model]
            peaks = [row.get("peak_bytes", row.get("least_bytes", 0)) / 2**20 for row in mine]
            texts = [
                f"{value:,.0f}" if "peak_bytes" in row else f"more than {value:,.0f}"
                for row, value in zip(mine, peaks, strict=True)
            ]
            _bars(axes, [row["column"] for row in mine], peaks, texts)
            axes.set_title(f"{title}, batch {batch}", fontsize=9, loc="left")
            axes.set_xlabel("MiB above model and batch", fontsize=8)
        _source(grid[0, 0], results["provenance"])
    return path


def scaling(results: dict[str, Any], path: Path) -> Path:
    """Time a sample against pool, classes and batch; memory while the largest pools run."""
    rows = [row for row in results["rows"] if "reason" not in row]
    with _figure(path, 2, 2, 5.2, 3.4) as grid:
        for axes, part, key, title, unit in (
            (grid[0, 0], "pool", "done", f"Pools, {results['title']}", "samples in the pool"),
            (grid[1, 0], "classes", "classes", "Last-layer scores, by classes", "classes"),
            (grid[1, 1], "batch", "batch", f"Batches, {results['title']}", "samples a batch"),
        ):
            _decorate(axes, title, unit, "microseconds a sample")
            mine = [row for row in rows if row["part"] == part]
            scores = dict.fromkeys(row["score"] for row in mine)
            _curves(axes, [_growth(mine, score, key) for score in scores])
        _readings(grid[0, 1], [row for row in rows if row["part"] == "pool"])
        _source(grid[0, 0], results["provenance"])
    return path


def _growth(rows: Sequence[Row], score: str, key: str) -> tuple[str, list[float], list[float]]:
    mine = [row for row in rows if row["score"] == score]
    return score, [row[key] for row in mine], [1e6 * row["seconds_per_sample"] for row in mine]


def _readings(axes: Any, rows: Sequence[Row]) -> None:
    """Resident memory over time, of the largest pool of each score."""
    curves = []
    for score in dict.fromkeys(row["score"] for row in rows):
        largest = max((r for r in rows if r["score"] == score), key=lambda r: r["done"])
        seconds, _, held = zip(*largest["readings"], strict=True)
        name = f"{score}, {largest['done']:,d}"
        curves.append((name, seconds, [value / 2**20 for value in held]))
    title, unit = "Memory while the largest pools are scored", "resident MiB"
    _decorate(axes, title, "seconds", unit, logarithmic=False)
    axes.set_ylim(0, 1.3 * max((max(held) for _, _, held in curves), default=1))
    _curves(axes, curves)
