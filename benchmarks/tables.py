"""Tables of results: for a terminal, and in Markdown."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.setting import RTOL

Row = dict[str, Any]
Results = dict[str, Any]
SCORES = ("expected", "entropy")


def terminal(rows: Sequence[Row]) -> str:
    """The rows of one case for a terminal of 100 columns."""
    head = rows[0]
    lines = [
        f"{head['title']}, {head['classes']} classes ({head['matrix_rate'] / 1e9:.0f} GFLOP/s in "
        f"matrix products, {head['matrix_rate_of']})",
        f"  {'':30s}{'samples/s':>10s}{'ms/sample':>10s}{'20 %':>8s}{'80 %':>8s}"
        f"{'x naive':>8s}{'/ floor':>8s}{'MiB':>6s}{'error':>7s}",
    ]
    for row in rows:
        if "reason" in row:
            lines.append(f"  {row['column']:30s} {row['reason'][:66]}")
            continue
        ms = [1e3 * row[f"seconds_{k}"] / row["samples"] for k in ("median", "p20", "p80")]
        cells = [f"{row['samples_per_second']:10.1f}{ms[0]:10.3f}{ms[1]:8.2f}{ms[2]:8.2f}"]
        for key, width, form in (
            ("speedup_over_naive", 8, ".2f"),
            ("over_floor", 8, ".2f"),
            ("peak_bytes", 6, ".0f"),
            ("error", 7, ".0e"),
        ):
            value = row.get(key)
            value = value / 2**20 if value is not None and key == "peak_bytes" else value
            cells.append(" " * width if value is None else format(value, f"{width}{form}"))
        lines.append(f"  {row['column']:30s}" + "".join(cells))
    return "\n".join(lines)


def fastest_rival(rows: Sequence[Row], score: str) -> Row | None:
    """The other package's row of one case that takes the least time a sample."""
    rivals = [r for r in rows if r["column"].endswith(f", {score}") and "way" in r]
    return min(rivals, key=lambda r: r["seconds_median"] / r["samples"], default=None)


def fastest_rivals(rows: Sequence[Row]) -> str:
    """How many times ours the fastest other package takes, for each score."""
    lines = []
    for score in SCORES:
        rival = fastest_rival(rows, score)
        if rival is None or "times_ours" not in rival:
            lines.append(f"  {score}: no other package to compare with")
        else:
            name = rival["column"].rpartition(", ")[0]
            lines.append(f"  {score}: {rival['times_ours']:.2f}x the fastest other, {name}")
            lines[-1] += f" ({rival['way']}, {rival['batch']} samples at a time)"
    return "\n".join(lines)


def throughput(results: Results) -> str:
    """Samples a second by case at ten classes."""
    names = {
        "naive": "plain loop, expected",
        "vmap(grad)": "vmap(grad), expected",
        "expected": "**expected**",
        f"rtol={RTOL}": f"expected, rtol={RTOL}",
        "entropy": "**entropy**",
        "last layer": "**last layer**",
        "training step": "training step",
        "forward only": "forward",
    }
    table = _rates(results, names, lambda classes: classes == 10)
    return table + "\n\n" + source(results, "throughput")


def classes(results: Results) -> str:
    """Samples a second by number of classes."""
    names = {
        "naive": "plain loop, expected",
        "expected": "**expected**",
        f"rtol={RTOL}": f"expected, rtol={RTOL}",
        "entropy": "**entropy**",
        "last layer": "**last layer**",
        "forward only": "forward",
    }
    swept = {row["case"] for row in results["rows"] if row["classes"] != 10}
    chosen = {**results, "rows": [row for row in results["rows"] if row["case"] in swept]}
    return _rates(chosen, names, lambda classes: True) + "\n\n" + source(results, "throughput")


def gpu(results: Results) -> str:
    """Samples a second on a GPU, by model, batch and arithmetic."""
    names = {
        "naive": "plain loop, expected",
        "vmap(grad)": "vmap(grad), expected",
        "expected": "**expected**",
        "entropy": "**entropy**",
        "last layer": "**last layer**",
        "training step": "training step",
        "forward": "forward",
    }
    lines = ["| samples/s | " + " | ".join(names.values()) + " | expected / floor |"]
    lines.append("|---|" + "---:|" * (len(names) + 1))
    for row in results["rows"]:
        columns = row.get("columns", {})
        if "expected" not in columns:
            continue
        cells = [_gpu_cell(columns.get(name, {})) for name in names]
        floor = columns["expected"].get("times the floor")
        cells.append("" if floor is None else f"{floor:.2f}")
        label = f"{row['model']}, batch {row['batch']}, {row['mode'].split(',')[0]}"
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    facts = results["provenance"]
    return "\n".join(lines) + (
        f"\n\nMeasured by `python -m benchmarks gpu` on {facts['device']}, torch "
        f"{facts['versions']['torch']}, CUDA {facts['versions']['cuda']}, {facts['date'][:10]}."
    )


def _gpu_cell(column: Row) -> str:
    if "samples_per_second" not in column:
        return "—"
    text = rate(column["samples_per_second"])
    times = column.get("faster than naive")
    return text if times is None else f"{text} ({rate(times)}x)"


def _rates(results: Results, names: dict[str, str], keep: Callable[[int], bool]) -> str:
    lines = ["| samples/s | " + " | ".join(names.values()) + " | expected / floor |"]
    lines.append("|---|" + "---:|" * (len(names) + 1))
    for title, count, rows in by_case(results["rows"]):
        if not keep(count):
            continue
        by = {row["column"]: row for row in rows}
        cells = [_rate_cell(by.get(column), column) for column in names]
        floor = by.get("expected", {}).get("over_floor")
        cells.append("" if floor is None else f"{floor:.2f}")
        lines.append(f"| {title}, {count} classes | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _rate_cell(row: Row | None, column: str) -> str:
    if row is None or "reason" in row:
        return "—"
    text = rate(row["samples_per_second"])
    ours = column in ("expected", "entropy", "last layer") or column.startswith("rtol")
    if ours and "speedup_over_naive" in row:
        text += f" ({rate(row['speedup_over_naive'])}x)"
    return text


def peers(results: Results) -> str:
    """Times of other packages in times of ours, with errors or reasons, by case."""
    cases = by_case(results["rows"])
    engines = {r["column"].rpartition(", ")[0]: None for _, _, rows in cases for r in rows}
    engines = {name: None for name in engines if name not in ("", "floor")}
    lines = ["| time / ours | " + " | ".join(title for title, _, _ in cases) + " |"]
    lines.append("|---|" + "---:|" * len(cases))
    for engine in engines:
        cells = []
        for _, _, rows in cases:
            by = {row["column"]: row for row in rows}
            cells.append(" · ".join(_peer_cell(by.get(f"{engine}, {s}")) for s in SCORES))
        lines.append(f"| {engine} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + source(results, "peers")


def _peer_cell(row: Row | None) -> str:
    if row is None or "not installed" in row.get("reason", ""):
        return ""
    if "reason" in row:
        wrong = row["reason"].startswith("wrong")
        return f"wrong by {row['reason'].split()[-1]}" if wrong else "does not run"
    return f"{row['times_ours']:.2f}" if "times_ours" in row else ""


def memory(results: Results) -> str:
    """Peak memory by model and column."""
    models = dict.fromkeys((r["model"], r["title"], r["batch"]) for r in results["rows"])
    columns = dict.fromkeys(row["column"] for row in results["rows"])
    lines = ["| peak MiB | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for model, title, batch in models:
        by = {row["column"]: row for row in results["rows"] if row["model"] == model}
        cells = [_memory_cell(by.get(column)) for column in columns]
        lines.append(f"| {title}, batch {batch} | " + " | ".join(cells) + " |")
    libraries = {row["column"]: row.get("loaded_bytes") for row in reversed(results["rows"])}
    cells = ["" if (b := libraries[c]) is None else f"{b / 2**20:.0f}" for c in columns]
    lines.append("| *before that, once: libraries* | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + source(results, "memory")


def _memory_cell(row: Row | None) -> str:
    if row is None:
        return ""
    if "peak_bytes" in row:
        return f"{row['peak_bytes'] / 2**20:.0f}"
    return f"> {row['least_bytes'] / 2**20:.0f}" if "least_bytes" in row else "—"


def scaling(results: Results) -> str:
    """Microseconds a sample from the smallest to the largest pool and batch."""
    lines = ["| microseconds a sample | smallest | | | | | largest |"]
    lines.append("|---|" + "---:|" * 6)
    for part, key, unit in (("pool", "samples", "samples"), ("batch", "batch", "a batch")):
        rows = [row for row in results["rows"] if row["part"] == part and "reason" not in row]
        for score in dict.fromkeys(row["score"] for row in rows):
            mine = [row for row in rows if row["score"] == score][-6:]
            cells = [f"{1e6 * r['seconds_per_sample']:.0f} ({r[key]:,d})" for r in mine]
            cells += [""] * (6 - len(cells))
            lines.append(f"| {score}, {part} ({unit}) | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + source(results, "scaling")


def by_case(rows: Sequence[Row]) -> list[tuple[str, int, list[Row]]]:
    """Titles, numbers of classes and rows of each case, in order of appearance and classes."""
    order = dict.fromkeys(row["case"] for row in rows)
    places = {case: i for i, case in enumerate(order)}
    keys = {(places[row["case"]], row["classes"]): row["title"] for row in rows}
    return [
        (title, count, [r for r in rows if (places[r["case"]], r["classes"]) == (place, count)])
        for (place, count), title in sorted(keys.items())
    ]


def rate(value: float) -> str:
    """Samples a second, or times, in two or three digits."""
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


def source(results: Results, command: str, moments: Sequence[dict[str, Any]] = ()) -> str:
    """Where a table's figures come from.

    Args:
        results: All that is stored.
        command: That measures them.
        moments: Of the table's own figures, where they are of several runs.
    """
    facts = results["provenance"]
    machine = facts["machine"]
    days = sorted({moment["date"][:10] for moment in moments} or {facts["date"][:10]})
    own = {moment["processor"] for moment in moments} or {machine["processor"]}
    processors = " and ".join(sorted(own))
    day = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return (
        f"Measured by `python -m benchmarks {command}` on {processors}, {threads}, "
        f"torch {facts['versions']['torch']}, {day}."
    )
