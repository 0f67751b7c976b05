"""`python -m benchmarks witness`: plants every fault, and tells what was made of it."""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.provenance import load
from benchmarks.witness.fault import ROOT, makes_scores

_TINY = "_results/nonfinite"


def main(folder: Path | None, only: str, stages: Sequence[str], processes: int, tiny: bool) -> int:
    """Runs what is missing in `witness.json`, and writes it and `witness.md`; 1 if one is not seen.

    Args:
        folder: Where results are read and written; nowhere if None.
        only: Faults with this in their file or text.
        stages: Which tests are run one after the other, each for what is left by those before.
        processes: Faults at a time.
        tiny: One fault.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        place = Path(elsewhere) if folder is None else folder
        shared = ["--out", str(place / "witness.json"), "--processes", str(processes)]
        shared += ["--only", _TINY if tiny else only]
        for stage in stages[:1] if tiny else stages:
            _run("planter", *shared, "--stage", stage)
        if not tiny:
            _run("verification", *shared)
        results = load("witness", place)
        print(summary(results))
        if folder is not None:
            text = f"# Planted faults\n\n{summary(results)}\n\n{table(results)}\n"
            (place / "witness.md").write_text(text)
    return int(bool(survivors(results)))


def _run(module: str, *arguments: str) -> None:
    # In processes of their own, which have not imported the package.
    command = [sys.executable, "-m", f"benchmarks.witness.{module}", *arguments]
    subprocess.run(command, cwd=ROOT, check=True)


def summary(results: dict[str, Any]) -> str:
    """How many faults tests and verification have seen, by room, as Markdown."""
    rows = results["rows"]
    tried = [row for row in rows if row.get("suite", {}).get("caught") is not None]
    caught = Counter(_room(row) for row in tried if row["suite"]["caught"])
    lines = ["| part | faults | tests were run for | they caught |", "|---|---:|---:|---:|"]
    for room in dict.fromkeys(map(_room, rows)):
        faults = sum(_room(row) == room for row in rows)
        lines.append(
            f"| `{room}` | {faults} | {sum(_room(row) == room for row in tried)} | {caught[room]} |"
        )
    lines += [f"| all | {len(rows)} | {len(tried)} | {caught.total()} |", "", seen(results)]
    return "\n".join(lines)


def tests(results: dict[str, Any]) -> str:
    """How many faults the tests were run for, and caught, in words."""
    rows = results["rows"]
    tried = [row for row in rows if row.get("suite", {}).get("caught") is not None]
    caught = sum(row["suite"]["caught"] for row in tried)
    return (
        f"Of {len(rows):,} faults of the kind that a tired developer makes, planted in the package "
        f"one at a time, the tests were run for {len(tried):,} and caught {caught:,}."
    )


def seen(results: dict[str, Any]) -> str:
    """What verification has seen, and why it has not what it missed, as Markdown."""
    made = [row for row in results["rows"] if makes_scores(row["file"])]
    asked = [row["witness"] for row in made if "witness" in row]
    matter = [row for row in made if row.get("witness", {}).get("matters")]
    if not matter:
        return ""
    told = [
        f"{len(made)} are in what makes the scores of small pools; of {len(asked)} of these that "
        f"were tried, {len(matter)} make them wrong by more than 1e-4 in silence with "
        f"`verify=False`.",
        *(_share(way, name, matter) for way, name in (("default", "True"), ("all", '"all"'))),
    ]
    missed = [row for row in matter if row["witness"]["all"] < len(row["witness"]["matters"])]
    if not missed:
        return " ".join(told)
    reasons = [f"- {row['told']}: {row.get('unseen') or '**to be mended**'}." for row in missed]
    lines = ["", "", 'Not seen by `verify="all"` on some pool:', "", *reasons]
    return " ".join(told) + "\n".join(lines)


def _share(way: str, name: str, matter: Sequence[dict[str, Any]]) -> str:
    some = [(row["witness"][way], len(row["witness"]["matters"])) for row in matter]
    whole = sum(told == pools for told, pools in some)
    part = sum(0 < told < pools for told, pools in some)
    none = len(some) - whole - part
    return (
        f"Of these `verify={name}` raises for {whole} ({whole / len(some):.0%}) on every pool that "
        f"they matter to, for {part} on some, for {none} on none."
    )


def table(results: dict[str, Any]) -> str:
    """All faults, as Markdown."""
    lines = ["| file | fault | tests | verification |", "|---|---|---|---|"]
    lines += [
        f"| `{row['file']}` | {row['kind']}: {_plain(row['told'])} | {_suite(row)} | {_seen(row)} |"
        for row in results["rows"]
    ]
    return "\n".join(lines)


def survivors(results: dict[str, Any]) -> int:
    """How many faults the tests, or verification without a reason, did not see."""
    return sum(
        row.get("suite", {}).get("caught") is False
        or (
            bool(row.get("witness", {}).get("matters"))
            and row["witness"]["all"] < len(row["witness"]["matters"])
            and not row.get("unseen")
        )
        for row in results["rows"]
    )


def _room(row: dict[str, Any]) -> str:
    return str(row["file"]).rpartition("/")[0] or "face and options"


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def _suite(row: dict[str, Any]) -> str:
    suite = row.get("suite")
    if suite is None or suite["caught"] is None:
        return "not run" if suite is None else "not decided"
    return f"caught: {_short(suite['by'])}" if suite["caught"] else "**survives**"


def _short(test: str) -> str:
    name = test.partition("[")[0].rpartition("::")[2] or test
    return f"`{name}`" if name.startswith("test_") else _plain(name)


def _seen(row: dict[str, Any]) -> str:
    found = row.get("witness") if makes_scores(row["file"]) else None
    if found is None:
        return ""  # of what makes no scores
    count = len(found["matters"])
    if not count:
        return "raises" if found["raises"] else "changes no score there"
    ways = [f"{way} {found[way]}" for way in ("default", "all") if way in found]
    return f"wrong on {count}: {', '.join(ways)}"
