"""Few labels and many: tables of the comparison of regimes, from stored curves."""

from pathlib import Path

from benchmarks.label_efficiency.curves import Results, load_all
from benchmarks.label_efficiency.statistics import (
    Interval,
    area,
    final,
    holm,
    paired_p,
    t_interval,
)

DEFAULT = "expected/last_layer/herding"
# What the default was to be held against before anything was run; the others are told by the way.
PLANNED = ("random", "margin", "badge")
FULL_MODEL = "full_model"  # its folder, where all comparisons are corrected: none was planned
# Of pictures, by the folder of their results.
SUFFIXES = {"regimes": "", "confirmation": "", "harder": "", FULL_MODEL: "_full"}
_OPTIONS = {"confirmation": "--confirm", "harder": "--confirm", FULL_MODEL: "--full-model"}
_FEWEST = 4  # seeds, below which a strategy is not told
_HEAD = (
    "| strategy | seeds | {metric} at {last} | area | area, to random | default less this "
    "| p, Holm |"
)


def tables(folder: Path, planned: int | None = None) -> str | None:
    """All tables of a folder of results; None where there are none.

    Args:
        folder: Of the results.
        planned: How many comparisons are corrected for; None: those that the tables have.
    """
    found = [each for each in load_all(folder) if of_page(each)]
    if not found:
        return None
    # One family: the default against each strategy that is compared, on every task.
    raw = {
        (each.task, name): paired_p(_differences(each, DEFAULT, name))
        for each in found
        for name in told(each)
        if name in PLANNED or (folder.name == FULL_MODEL and name != DEFAULT)
    }
    corrected = holm(raw, planned)
    return "\n\n".join(_table(each, corrected, folder.name) for each in found)


def of_page(results: Results) -> bool:
    """Whether there are enough seeds of the default to tell."""
    return DEFAULT in told(results)


def told(results: Results) -> list[str]:
    """The strategies with enough seeds."""
    return [name for name in results.strategies if len(results.of(name)) >= _FEWEST]


def _differences(results: Results, first: str, second: str) -> list[float]:
    """Of areas under the curve, in points, by seed."""
    mine, theirs = results.of(first), results.of(second)
    return [100 * (area(mine[s]) - area(theirs[s])) for s in sorted(mine) if s in theirs]


def _table(results: Results, corrected: dict[tuple[str, str], float], folder: str) -> str:
    plan, facts = results.facts["plan"], results.facts["provenance"]
    areas = {n: t_interval([area(c) for c in results.of(n).values()]) for n in told(results)}
    counts = {name: len(results.of(name)) for name in areas}
    fewest, most = min(counts.values()), max(counts.values())
    seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    last = results.curves[0].labels[-1]
    lines = [
        f"**`{results.task}`**: {results.facts['title']}. {plan['start']} labels, then "
        f"{plan['cycles']} x {plan['budget']} of {plan['subset']:,} random ones; pool of "
        f"{results.facts['pool']:,}; {seeds} seeds.",
        "",
        _HEAD.format(metric=results.metric, last=last),
        "|---|" + 6 * "---:|",
    ]
    for name in sorted(areas, key=lambda name: -areas[name].mean):
        ends = t_interval([100 * final(curve) for curve in results.of(name).values()])
        to_random = "-"
        if name != "random":
            to_random = _shown(t_interval(_differences(results, name, "random")))
        less = p = "-"
        if name != DEFAULT:
            less = _shown(t_interval(_differences(results, DEFAULT, name)))
        if (results.task, name) in corrected:
            p = f"{corrected[results.task, name]:.2g}"
        shown = f"`{name}`" + (" (default)" if name == DEFAULT else "")
        means = [f"{counts[name]}", f"{ends.mean:.1f}", f"{100 * areas[name].mean:.1f}"]
        cells = [shown, *means, to_random, less, p]
        lines.append("| " + " | ".join(cells) + " |")
    machine = facts["machine"]["processor"]
    option, suffix = _OPTIONS.get(folder, "--regimes"), SUFFIXES.get(folder, "")
    lines += [
        "",
        f"![{results.task}: learning curves](pictures/experiments/{results.task}{suffix}.png)",
        "",
        f"`python -m benchmarks label-efficiency {results.facts['command']} {option}` on "
        f"{machine}, torch {facts['versions']['torch']}, commit {facts['commit']}, "
        f"{facts['date'][:10]}; {results.facts['core_seconds']:,.0f} seconds of computing.",
    ]
    return "\n".join(lines)


def _shown(found: Interval) -> str:
    text = f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
    return f"**{text}**" if found.sign else text
