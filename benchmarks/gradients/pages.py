"""What the figures say, as a table of the documentation."""

from typing import Any

from benchmarks import tables
from benchmarks.gradients.costs import FIGURES, LIMIT, MEMORY
from benchmarks.provenance import moment

Results = dict[str, Any]
KINDS = "costs", "memory"
_MEMORY = "memory, norm and sketch over vmap(grad)", f"in {LIMIT} MiB"


def costs(results: Results) -> str:
    """A row a model: each figure in training steps, and memory."""
    rows, dim = results["rows"], results["dim"]
    names = [name.replace("sketch", f"sketch of {dim}") for name in FIGURES]
    lines = ["| model | " + " | ".join(names) + " | " + " | ".join(_MEMORY) + " |"]
    lines.append("|---|" + "---:|" * (len(names) + len(_MEMORY)))
    for row in rows:
        cells = [_steps(row.get("costs", {}).get(name, {})) for name in FIGURES]
        cells += [_memory(row.get("memory", {}), what) for what in MEMORY[:-1]]
        lines.append(f"| {row['model']} | " + " | ".join(cells) + " |")
    told = (
        f"In training steps on the same samples, {rows[0]['batch']} at a time: whole calls on "
        "two or three batches without verification, the median of rounds and in brackets the least "
        "and the most."
    )
    figures = [each for row in rows for kind in KINDS for each in row.get(kind, {}).values()]
    return "\n".join([told, "", *lines, "", _source(results, figures)])


def accuracy(results: Results) -> str:
    """A row a model: the error of a sketch's squared norm."""
    rows, dim = results.get("accuracy", []), results["dim"]
    made = [(row["name"], row["sketch"]["error"]) for row in rows]
    made = [(name, found) for name, found in made if "reason" not in found]
    lines = ["| model | parameters | error, in times of √(2/k) | by the gradient | bias |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, found in made:
        error = f"{found['rms_over_least']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
        bias = f"{100 * found['bias']:.1f} ± {100 * found['bias_half']:.1f} %"
        known = f"{found['expected_over_least']:.3f}"
        cells = [name, f"{found['parameters']:,}", error, known, bias]
        lines.append("| " + " | ".join(cells) + " |")
    seeds = made[0][1]["seeds"] if made else 0
    told = (
        f"Root mean square error of ‖y‖² over {seeds} seeds, relative to ‖g‖², with its 95 % "
        f"interval; k = {dim}, √(2/k) = {100 * (2 / dim) ** 0.5:.1f} %; one sample a model."
    )
    return "\n".join([told, "", *lines, "", _source(results, [found for _, found in made])])


def _source(results: Results, figures: list[dict[str, Any]]) -> str:
    """With the days and machines of the table's own figures."""
    every = moment(results["provenance"])
    moments = [figure.get("measured", every) for figure in figures]
    return tables.source(results, "gradients", moments)


def _steps(found: dict[str, Any]) -> str:
    if "over_step" not in found:
        return ""
    return f"{found['over_step']:.2f} ({found['least']:.2f} to {found['most']:.2f})"


def _memory(found: dict[str, Any], what: str) -> str:
    ours, theirs = (found.get(name, {}).get("peak_bytes") for name in (what, MEMORY[-1]))
    return f"{ours / theirs:.2f}" if ours and theirs else ""
