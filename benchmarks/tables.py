"""Tables made from results: for the terminal and for the README."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import timing


def terminal(rows: list[dict[str, Any]]) -> str:
    """The rows of one case for a terminal of 100 columns."""
    head = rows[0]
    lines = [
        f"{head['title']}, {head['classes']} classes "
        f"({head['matrix_rate'] / 1e9:.0f} GFLOP/s in a matrix product)",
        f"  {'':26s}{'samples/s':>10s}{'ms/sample':>11s}{'20 %':>8s}{'80 %':>8s}"
        f"{'x naive':>9s}{'/ floor':>9s}{'MiB':>7s}{'error':>9s}",
    ]
    for row in rows:
        if "reason" in row:
            lines.append(f"  {row['column']:26s} {row['reason'][:70]}")
            continue
        ms = [1e3 * row[f"seconds_{k}"] / row["samples"] for k in ("median", "p20", "p80")]
        cells = [f"{row['samples_per_second']:10.1f}{ms[0]:11.2f}{ms[1]:8.2f}{ms[2]:8.2f}"]
        for key, width, form in (
            ("speedup_over_naive", 9, ".2f"),
            ("over_floor", 9, ".2f"),
            ("peak_bytes", 7, ".0f"),
            ("error", 9, ".0e"),
        ):
            value = row.get(key)
            value = value / 2**20 if value is not None and key == "peak_bytes" else value
            cells.append(" " * width if value is None else format(value, f"{width}{form}"))
        lines.append(f"  {row['column']:26s}" + "".join(cells))
    return "\n".join(lines)


def throughput_table(results: dict[str, Any]) -> str:
    """Samples a second by case, with the speed-up over the plain loop."""
    columns = ("naive", "expected", "entropy", "last layer", "training step", "forward only")
    names = (
        "plain loop, expected",
        "expected",
        "entropy",
        "last layer",
        "training step",
        "forward",
    )
    lines = ["| samples/s | " + " | ".join(names) + " |", "|---|" + "---:|" * len(columns)]
    cases = dict.fromkeys((row["case"], row["title"], row["classes"]) for row in results["rows"])
    for case, title, classes in cases:
        rows = {
            row["column"]: row
            for row in results["rows"]
            if (row["case"], row["classes"]) == (case, classes) and "reason" not in row
        }
        cells = []
        for column in columns:
            row = rows.get(column)
            text = "" if row is None else _rate(row["samples_per_second"])
            if row is not None and column in ("expected", "entropy", "last layer"):
                text += f" ({_rate(row['speedup_over_naive'])}x)"
            cells.append(text)
        lines.append(f"| {title}, {classes} classes | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + _source(results, "throughput")


def traps_table(results: dict[str, Any]) -> str:
    """Outcomes by engine."""
    from benchmarks import traps

    count = len(results["rows"])
    text = f"{count} small models, scores against a float64 autograd loop:\n\n"
    return text + traps.summary(results) + "\n\n" + _source(results, "traps")


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


def _source(results: dict[str, Any], command: str) -> str:
    facts = results["provenance"]
    machine = facts["machine"]
    return (
        f"Measured by `python -m benchmarks {command}` on {machine['processor']}, "
        f"{machine['threads']} threads, torch {facts['versions']['torch']}, {facts['date'][:10]}."
    )


BLOCKS: dict[str, Callable[[dict[str, Any]], str]] = {
    "throughput": throughput_table,
    "traps": traps_table,
}


def update(path: Path) -> int:
    """Replaces what stands between `<!-- name:start -->` and `<!-- name:end -->`."""
    if not path.exists():
        print(f"{path} does not exist.", file=sys.stderr)
        return 2
    text = path.read_text()
    for name, make in BLOCKS.items():
        start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        results = timing.load(name)
        if start not in text or end not in text:
            print(f"{name}: no {start} ... {end} in {path.name}")
        elif results is None:
            print(f"{name}: no results; run `python -m benchmarks {name}` first")
        else:
            before, rest = text.split(start, 1)
            text = before + start + "\n" + make(results) + "\n" + end + rest.split(end, 1)[1]
            print(f"{name}: written")
    path.write_text(text)
    return 0
