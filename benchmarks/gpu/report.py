"""The JSON file of one part, written after every step, so that a cut-off run loses nothing."""

import json
import math
import os
import re
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.processes import LOST, ROOT


class Report:
    """Rows and facts of one part, under a limit of time.

    Args:
        path: The file. What an earlier process of the same run left there is kept.
        seconds: From now on.
        dry: Whether this is a run on tiny shapes, without a device.

    Attributes:
        document: All that is stored.
        device: `"cuda"`, or `"cpu"` in a dry run.
    """

    def __init__(self, path: Path, seconds: float, dry: bool) -> None:
        self.path, self.dry = path, dry
        self.device = "cpu" if dry else "cuda"
        self._end = time.monotonic() + seconds
        self._begun = time.monotonic()
        self.document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.document.setdefault("rows", [])
        self.document.setdefault("errors", {})
        self.document.setdefault("left_out", [])
        self._open = self.document.setdefault("open", [])
        for key in self._open:  # the process before ended within this step
            self.document["errors"].setdefault(key, "the process ended within this step")
        self._open.clear()
        self._done = {row["key"] for row in self.document["rows"]} | set(self.document["errors"])

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self._end - time.monotonic()

    def add(self, row: dict[str, Any]) -> None:
        """One row, told by its `key`."""
        self.document["rows"].append(row)
        self.save()

    def fact(self, name: str, value: Any) -> None:
        """Something of the whole part."""
        self.document[name] = value
        self.save()

    def wanted(self, key: str, least: float = 0.0) -> bool:
        """Whether a step is still to be done, and there are `least` seconds for it."""
        if key in self._done:
            return False
        if self.left < least:
            self.document["left_out"] = sorted({*self.document["left_out"], key})
            self.save()
            return False
        return True

    @contextmanager
    def step(self, key: str) -> Iterator[dict[str, Any]]:
        """A row to fill in; what is raised meanwhile is stored, and the next step goes on.

        A device that lost its context gives nothing any more: the process ends, with `LOST`, for
        another to go on.
        """
        row: dict[str, Any] = {"key": key}
        self._open.append(key)
        self.save()
        begun = time.monotonic()
        try:
            yield row
        except Exception:
            self.document["errors"][key] = shortened(traceback.format_exc())
            print(f"{key}: {self.document['errors'][key].strip().splitlines()[-1][:200]}")
        except BaseException:  # interrupted at the limit
            self.document["errors"][key] = "cut off at the limit of time"
            self.document["rows"].append(row | {"cut": True})
            self._open.remove(key)
            self.save()
            raise
        row["took"] = round(time.monotonic() - begun, 2)
        self._open.remove(key)
        self._done.add(key)
        if key not in self.document["errors"] or len(row) > 2:
            self.document["rows"].append(row)
        self.save()
        if not self.dry and is_lost():
            self.fact("lost", [*self.document.get("lost", []), key])
            os._exit(LOST)

    def save(self) -> None:
        """Writes the file, at once or not at all."""
        self.document["seconds"] = round(time.monotonic() - self._begun, 1)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(finite(self.document), indent=1, ensure_ascii=False) + "\n")
        new.replace(self.path)


def is_lost() -> bool:
    """Whether the device's context is broken, as after an illegal access."""
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


def shortened(text: str, lines: int = 40) -> str:
    """The first and the last lines of a long text, files by where they are in their packages."""
    text = text.replace(f"{ROOT}/", "")
    found = re.sub(r"/\S*/site-packages/", "site-packages/", text).splitlines()
    if len(found) > lines:
        half = lines // 2
        found = [*found[:half], f"... {len(found) - 2 * half} lines ...", *found[-half:]]
    return "\n".join(line[:500] for line in found)


def finite(value: Any) -> Any:
    """The same with NaN and infinities as text, which JSON does not have."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
