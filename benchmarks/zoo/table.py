"""`docs/models.md`, made from the stored outcomes."""

from collections import Counter
from typing import Any

OUTCOMES = ("exact", "slow", "refused", "wrong", "crashed")


def counts(rows: dict[str, dict[str, Any]]) -> str:
    """How many families of each library came out how, as Markdown."""
    lines = ["| | families | " + " | ".join(OUTCOMES) + " |", "|---" + "|---:" * 6 + "|"]
    for library in dict.fromkeys(key.partition("/")[0] for key in rows):
        found = Counter(r["outcome"] for k, r in rows.items() if k.startswith(library + "/"))
        tried = sum(found[outcome] for outcome in OUTCOMES)
        cells = " | ".join(str(found[outcome]) for outcome in OUTCOMES)
        lines.append(f"| {library} | {tried} | {cells} |")
    return "\n".join(lines)
