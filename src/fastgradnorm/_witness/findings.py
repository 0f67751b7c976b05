"""What was noticed about a model, its inputs and its scores, told once each."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from fastgradnorm._errors import DoubtfulScoresWarning, UnsupportedModelError


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed.

    Attributes:
        kind: A name for it.
        message: What was read from where, what it means for the scores, and what to do.
        level: `"note"`: ordinary, and stands in the provenance; `"warn"`: the scores may not mean
            what they seem to; `"refuse"`: they would mean nothing.
    """

    kind: str
    message: str
    level: Literal["note", "warn", "refuse"] = "warn"


class Findings:
    """Those of one run; each kind is told once."""

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}

    def add(self, found: Iterable[Finding]) -> None:
        """Warns of what is new.

        Raises:
            UnsupportedModelError: With the message of the first that is to be refused.
        """
        for finding in found:
            if finding.level == "refuse":
                raise UnsupportedModelError(finding.message)
            if finding.kind in self._found:
                continue
            self._found[finding.kind] = finding
            if finding.level == "warn":
                warnings.warn(finding.message, DoubtfulScoresWarning, stacklevel=2)

    def remember(self, told: Iterable[Mapping[str, str]]) -> None:
        """What another process has found and told, as plain data."""
        for plain in told:
            self._found.setdefault(plain["kind"], Finding(**plain))  # type: ignore[arg-type]

    def has(self, kind: str) -> bool:
        """Whether there is one of that kind."""
        return kind in self._found

    def plain(self) -> list[dict[str, str]]:
        """Of all, as plain data."""
        return [asdict(finding) for finding in self._found.values()]
