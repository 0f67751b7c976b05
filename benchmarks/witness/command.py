"""`python -m benchmarks witness`: plants every fault, and tells what was made of it."""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.provenance import load
from benchmarks.witness.fault import ROOT

_TINY = "_results/nonfinite"


def main(folder: Path | None, only: str, stages: Sequence[str], processes: int, tiny: bool) -> int:
    """Runs what is missing in `witness.json`, and writes it and `witness.md`; 1 if one survives.

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
    return int(any(row.get("suite", {}).get("caught") is False for row in results["rows"]))


def _run(module: str, *arguments: str) -> None:
    # In processes of their own, which have not imported the package.
    command = [sys.executable, "-m", f"benchmarks.witness.{module}", *arguments]
    subprocess.run(command, cwd=ROOT, check=True)


def summary(results: dict[str, Any]) -> str:
    """How many faults tests and verification have seen, by room, as Markdown."""
    rows = results["rows"]
    tried = [row for row in rows if "suite" in row]
    caught = Counter(_room(row) for row in tried if row["suite"]["caught"])
    matter = [row for row in rows if row.get("witness", {}).get("matters")]
    lines = ["| part | faults | tests were run for | they caught |", "|---|---:|---:|---:|"]
    for room in dict.fromkeys(map(_room, rows)):
        faults = sum(_room(row) == room for row in rows)
        lines.append(
            f"| `{room}` | {faults} | {sum(_room(row) == room for row in tried)} | {caught[room]} |"
        )
    lines.append(f"| all | {len(rows)} | {len(tried)} | {caught.total()} |")
    told = [""]
    for way, name in (("default", "verify=True"), ("all", 'verify="all"')):
        some = [row["witness"] for row in matter if way in row["witness"]]
        if some:
            whole = sum(row[way] == len(row["matters"]) for row in some)
            part = sum(0 < row[way] < len(row["matters"]) for row in some)
            told.append(
                f"Of {len(some)} faults that make scores of the small pools wrong by more than "
                f"1e-4 in silence, `{name}` raises for {whole} on every pool that they matter to, "
                f"for {part} on some, for {len(some) - whole - part} on none."
            )
    if any("pools" in row["witness"] for row in matter):
        told.append("Of most of these faults, up to four of the pools were tried.")
    return "\n".join(lines + (told if len(told) > 1 else []))


def table(results: dict[str, Any]) -> str:
    """All faults, as Markdown."""
    lines = ["| file | fault | tests | verification |", "|---|---|---|---|"]
    lines += [
        f"| `{row['file']}` | {row['kind']}: {_plain(row['told'])} | {_suite(row)} | {_seen(row)} |"
        for row in results["rows"]
    ]
    return "\n".join(lines)


def _room(row: dict[str, Any]) -> str:
    return str(row["file"]).rpartition("/")[0] or "face and options"


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def _suite(row: dict[str, Any]) -> str:
    suite = row.get("suite")
    if suite is None:
        return "not run"
    return f"caught: {_short(suite['by'])}" if suite["caught"] else "**survives**"


def _short(test: str) -> str:
    name = test.partition("[")[0].rpartition("::")[2] or test
    return f"`{name}`" if name.startswith("test_") else _plain(name)


def _seen(row: dict[str, Any]) -> str:
    found = row.get("witness")
    if found is None:
        return ""
    count = len(found["matters"])
    if not count:
        return "raises" if found["raises"] else "changes no score there"
    ways = [f"{way} {found[way]}" for way in ("default", "all") if way in found]
    return f"wrong on {count}: {', '.join(ways)}"
