"""The page: tables and figures from stored results, around conclusions written by hand."""

import math
import os
import re
from pathlib import Path

from benchmarks.label_efficiency.curves import RESULTS, Results, load_all
from benchmarks.label_efficiency.figures import draw
from benchmarks.label_efficiency.statistics import REFERENCES, Interval, Summary, summarise

PAGE = Path(__file__).parent / "README.md"
_START, _END = "<!-- conclusions:start -->", "<!-- conclusions:end -->"
_HEADER = """\
# Does scoring by gradient norm save labels?

{conclusions}

Below, every strategy of every task, losing ones included: the headline metric with all labels, the
paired difference to random selection, entropy sampling, margin sampling and BADGE, the area under
the curve (the mean height of the curve over its labels) and its paired difference to the first two,
the labels at which the mean curve reaches what random selection reaches in the end, and the share
of the time of training, scoring and selecting that goes into scoring. Brackets are 95 % intervals
(Student's t over seeds; runs of a seed share the start set, the random subsets, and the initial
weights); **bold** ones leave zero out. With this many intervals, about one in twenty would do so by
chance.

The files that each task reads are listed in [DATA.md](DATA.md). Tables and figures are made from
[results](results) by `python -m benchmarks label-efficiency report`.
"""


def write(page: Path = PAGE, folder: Path = RESULTS) -> Path:
    """Draws every task's curves and writes the page; what stands between its marks is kept."""
    parts = [_HEADER.format(conclusions=_kept(page))]
    for results in load_all(folder):
        picture = draw(results, folder / f"{results.task}.png")
        parts.append(section(results, os.path.relpath(picture, page.parent)))
    page.write_text("\n".join(parts))
    return page


def _kept(page: Path) -> str:
    old = page.read_text() if page.exists() else ""
    found = re.search(f"{_START}.*?{_END}", old, re.DOTALL)
    return found[0] if found else f"{_START}\n{_END}"


def section(results: Results, picture: str) -> str:
    """One task: title, table, figure, provenance."""
    summaries = summarise(results)
    plan, facts = results.facts["plan"], results.facts["provenance"]
    labels = summaries[0].labels
    seeds = sorted({summary.seeds for summary in summaries})
    lines = [
        f"## {results.task}",
        "",
        f"{results.facts['title']}. {labels[0]} labels at the start, {plan['budget']} more in each "
        f"of {len(labels) - 1} cycles, chosen among {plan['subset']:,} random ones of "
        f"{results.facts['pool']:,}; {' to '.join(map(str, seeds))} seeds.",
        "",
        f"| strategy | {results.metric} at {labels[-1]} | to random | to entropy "
        "| to margin | to BADGE | area | to random | to entropy | labels for random's end "
        "| scoring |",
        "|---|" + 10 * "---:|",
        *(_row(summary) for summary in summaries),
        "",
        f"![Learning curves]({picture})",
        "",
        f"`python -m benchmarks label-efficiency {results.facts['command']}` on "
        f"{facts['machine']['processor']}, {results.facts['workers']} processes of one thread, "
        f"device {facts['device']}, torch {facts['versions']['torch']}, commit {facts['commit']}, "
        f"{facts['date'][:10]}; {results.facts['core_seconds']:,.0f} seconds of computing.",
        "",
    ]
    return "\n".join(lines)


def _row(summary: Summary) -> str:
    reach = summary.labels_to_random
    cells = [
        f"`{summary.strategy}`",
        f"{summary.means[-1]:.3f}",
        *(_shown(summary.final_gain.get(other)) for other in REFERENCES),
        f"{summary.area:.3f}",
        *(_shown(summary.area_gain.get(other)) for other in REFERENCES[:2]),
        f"{reach:.0f}" if math.isfinite(reach) else "not reached",
        f"{summary.share:.0%} ({summary.seconds_score:.1f} s)",
    ]
    return "| " + " | ".join(cells) + " |"


def _shown(gain: Interval | None) -> str:
    """In hundredths, which are percentage points of an accuracy."""
    if gain is None:
        return "-"
    text = f"{100 * gain.mean:+.1f}"
    if math.isfinite(gain.low):
        text += f" [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    return f"**{text}**" if gain.sign else text


def terminal(results: Results) -> str:
    """The table as plain text."""
    lines = [f"{results.task}: {results.metric}"]
    for summary in summarise(results):
        gain = _shown(summary.final_gain.get("random")).strip("*")
        lines.append(
            f"  {summary.strategy:32} {summary.means[-1]:.3f}  to random {gain:24} "
            f"area {summary.area:.3f}  scoring {summary.share:4.0%}"
        )
    return "\n".join(lines)
