"""The tables of `attribution`, as Markdown."""

from typing import Any

from benchmarks import tables
from benchmarks.provenance import moment
from benchmarks.traps import cell

Results = dict[str, Any]
KINDS = ("exact", "wrong", "refused", "crashed")


def counts(results: Results) -> str:
    """A row a package: how many traps, and what it leaves out."""
    lines = ["| package | " + " | ".join(KINDS) + " | leaves out |"]
    lines.append("|---|" + "---:|" * len(KINDS) + "---|")
    for name in _present(results):
        outcomes = [row[name]["outcome"] for row in results["traps"]]
        cells = [str(outcomes.count(kind)) for kind in KINDS]
        bold = "**" if name == "fastgradnorm" else ""
        out = results["leaves_out"].get(name, "")
        lines.append(f"| {bold}{name}{bold} | " + " | ".join(cells) + f" | {out} |")
    told = f"Of {len(results['traps'])} models:"
    return "\n".join([told, "", *lines, "", _source(results, [results])])


def each(results: Results) -> str:
    """A row a trap."""
    names = _present(results)
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in results["traps"]:
        cells = [cell(row[name], "**") for name in names]
        lines.append(f"| {row['group']}: {row['trap']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _source(results, [results])])


def speed(results: Results) -> str:
    """A row a package, a column a model: time and memory, in times of ours."""
    rows = results.get("rows", [])
    works = list(dict.fromkeys(row["work"] for row in rows))
    by = {(row["work"], row["package"]): row for row in rows}
    lines = ["| | " + " | ".join(works) + " |", "|---|" + "---:|" * len(works)]
    for name in _present(results):
        cells = [_cost(by[work, name], name == "fastgradnorm") for work in works]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    sizes = (
        "Products of 16 samples with 4 queries: processor time, in times of ours, and peak memory."
    )
    return "\n".join([sizes, "", *lines, "", _source(results, rows)])


def _source(results: Results, figures: list[dict[str, Any]]) -> str:
    """With the days and machines of the table's own figures."""
    every = moment(results["provenance"])
    moments = [figure.get("measured", every) for figure in figures]
    return tables.source(results, "attribution", moments)


def _present(results: Results) -> list[str]:
    first = results["traps"][0]
    return [n for n in results["packages"] if first[n]["outcome"] != "not installed"]


def _cost(row: dict[str, Any], ours: bool) -> str:
    if "reason" in row:
        return "wrong" if row["reason"].startswith("wrong") else "does not run"
    peak = row.get("peak_bytes")
    mib = "" if peak is None else f", {peak / 2**20:.0f} MiB"
    if ours:
        return f"{row['cpu_seconds_median']:.2f} s{mib}"
    return f"{row['times_ours']:.2f}x{mib}"
