"""What has become of each fault so far: kept as it comes, read again by the next run."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.planting import Verdict
from benchmarks.provenance import provenance
from benchmarks.witness.fault import Fault


class Record:
    """Rows of results by fault.

    Args:
        path: Of a JSON file; made if it is not there.
        faults: All there are, in the order of the rows. Rows of other faults are dropped.
    """

    def __init__(self, path: Path, faults: Sequence[Fault]) -> None:
        self.path, self.faults = path, faults
        known: dict[str, Any] = {}
        if path.exists():
            stored = json.loads(path.read_text())
            known = {row["fault"]: row for row in stored["rows"]}
        self.rows: dict[str, dict[str, Any]] = {}
        for fault in faults:
            row = known.get(fault.name)
            self.rows[fault.name] = (
                row
                if row is not None and row["edit"] == _edit(fault)
                else {
                    "fault": fault.name,
                    "file": fault.file,
                    "kind": fault.kind,
                    "told": fault.told,
                    "edit": _edit(fault),
                }
            )
            self.rows[fault.name]["unseen"] = fault.unseen

    def judged(self, fault: Fault, verdict: Verdict, stage: str) -> None:
        """Notes what the tests made of a fault."""
        self.rows[fault.name]["suite"] = {
            "caught": verdict.caught,
            "by": verdict.first_failure,
            "stage": stage,
            "commit": provenance()["commit"],
            "seconds": verdict.seconds,
        }
        self.store()

    def witnessed(self, fault: Fault, found: dict[str, Any]) -> None:
        """Notes what verification made of a fault."""
        self.rows[fault.name]["witness"] = {**found, "commit": provenance()["commit"]}
        self.store()

    def is_witnessed(self, fault: Fault) -> bool:
        """Whether verification has been tried on it, on all pools."""
        return "pools" not in self.rows[fault.name].get("witness", {"pools": "none"})

    def age(self, fault: Fault) -> int:
        """0: verification has not been tried on it; 1: who knows when; 2: at a commit that is kept.

        In this order what is stopped, and goes on later, tries what is oldest.
        """
        found = self.rows[fault.name].get("witness")
        return 0 if found is None else 1 + ("commit" in found)

    def waits(self, fault: Fault, stage: str, again: bool) -> bool:
        """Whether the tests of a stage are to be run; `again`: also where they missed it.

        Later stages are for what the earlier ones missed.
        """
        suite = self.rows[fault.name].get("suite")
        if suite is None:
            return stage == "quick"
        if suite["caught"] is None:
            return bool(stage == suite["stage"])
        return not suite["caught"] and (again or suite["stage"] != stage)

    def store(self) -> None:
        """Writes everything, whole or not at all."""
        document = {"provenance": provenance(), "rows": list(self.rows.values())}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        os.replace(partial, self.path)


def _edit(fault: Fault) -> str:
    return hashlib.sha256(f"{fault.old}\0{fault.new}".encode()).hexdigest()[:12]
