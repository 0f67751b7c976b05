"""Where the data lie: `--data-root`, else `FASTGRADNORM_DATA`, else `data/`."""

import os
from pathlib import Path

VARIABLE = "FASTGRADNORM_DATA"


class DataMissing(FileNotFoundError):
    """The data of a task are not on this machine; the message says what to put where."""


def data_root(given: str | Path | None = None) -> Path:
    """The folder of all data: what was given, the environment variable, or `data/`."""
    return Path(given or os.environ.get(VARIABLE) or "data")


def first_existing(what: str, candidates: list[Path]) -> Path:
    """The first path that exists.

    Raises:
        DataMissing: If none does.
    """
    for path in candidates:
        if path.exists():
            return path
    looked = ", ".join(str(path) for path in candidates)
    raise DataMissing(
        f"{what} not found. Looked for {looked}. Pass `--data-root` or set {VARIABLE}; "
        "benchmarks/label_efficiency/DATA.md says which files."
    )
