"""`docs/models.md`, made from the stored outcomes."""

from collections import Counter
from typing import Any

OUTCOMES = ("exact", "slow", "refused", "wrong", "crashed")
_SITES = {
    "timm": "[timm](https://github.com/huggingface/pytorch-image-models)",
    "transformers": "[transformers](https://github.com/huggingface/transformers)",
}
_HEAD = """# Models tried

One small model of each family of timm and transformers, with random weights, on three samples:
scores by `"expected"` with the defaults, beside a loop in float64 over the model itself, one sample
and class at a time (`python -m benchmarks zoo`). *Exact* is a relative error below {limit:g};
*slow* is exact too, one sample at a time, told by a warning; *refused* is an error that names the
layer.

"""


def counts(rows: dict[str, dict[str, Any]]) -> str:
    """How many families of each library came out how, as Markdown."""
    lines = ["| | families | " + " | ".join(OUTCOMES) + " |", "|---" + "|---:" * 6 + "|"]
    for library, found in _by_library(rows).items():
        outcomes = Counter(row["outcome"] for row in found.values())
        tried = sum(outcomes[outcome] for outcome in OUTCOMES)
        cells = " | ".join(str(outcomes[outcome]) for outcome in OUTCOMES)
        lines.append(f"| {_SITES.get(library, library)} | {tried} | {cells} |")
    return "\n".join(lines)


def page(results: dict[str, Any]) -> str:
    """All outcomes, as Markdown."""
    rows = results["rows"]
    text = _HEAD.format(limit=results["exact_below"]["torch.float32"]) + counts(rows) + "\n"
    others = [key for key, row in rows.items() if row["outcome"] in OUTCOMES[1:]]
    if others:
        text += "\n## Not fast and exact\n\n| family | outcome | why |\n|---|---|---|\n"
        for key in others:
            row = rows[key]
            text += f"| {key} | {row['outcome']} | {_cell(row.get('message', ''))} |\n"
    for library, found in _by_library(rows).items():
        exact = [name for name, row in found.items() if row["outcome"] == "exact"]
        text += f"\n## {library}: exact\n\n{', '.join(exact)}.\n"
    for library, found in _by_library(rows).items():
        unmade = {name: row for name, row in found.items() if row["outcome"] == "not made"}
        if unmade:
            text += (
                f"\n## {library}: no small model\n\nFor these `python -m benchmarks zoo` has no "
                "configuration that makes a small classifier which runs by itself, without files "
                f"from elsewhere: {', '.join(unmade)}.\n"
            )
    facts = results["provenance"]
    names = ("torch", "timm", "transformers")
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in names)
    return text + f"\nMade with {versions}, {facts['date'][:10]}.\n"


def _by_library(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for key, row in rows.items():
        library, _, name = key.partition("/")
        found.setdefault(library, {})[name] = row
    return found


def _cell(message: str) -> str:
    first = message.removeprefix("This model cannot run under vmap, so that samples are scored ")
    first = first.removeprefix("one by one with plain autograd: exact, and slow. ")
    return first.replace("|", "\\|")[:200]
