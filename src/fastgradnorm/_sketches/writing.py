"""The folder of a `SketchStore`, while its sketches are made."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fastgradnorm._errors import ArgumentError
from fastgradnorm._pool import Placement, Run, SharedRun, provenance, rows_of
from fastgradnorm._sketches.sketched import COLUMN
from fastgradnorm._sketches.store import INDICES, INFO, KINDS, RUN, folder_of
from fastgradnorm._validate import fail
from fastgradnorm.atomic import replacing, write_text


@contextlib.contextmanager
def _called_path() -> Iterator[None]:
    """What is wrong with the checkpoint within a folder is told of the argument that names it."""
    try:
        yield
    except ArgumentError as error:
        if error.argument == "checkpoint":
            error.argument = "path"
            error.args = (str(error).replace("`checkpoint`", "`path`", 1),)
        raise
    except OSError as error:
        if error.strerror:
            error.strerror = error.strerror.replace("`checkpoint`", "`path`", 1)
        raise


class Folder:
    """A folder that sketches are written to.

    The rows beside a run's checkpoint are the sketches. Ranks have such rows for their shares; rank
    0 writes those of all.

    Args:
        path: Of the folder; made if it is not there.

    Attributes:
        checkpoint: Of the run.
        count: Sketches so far.
        bad: Numbers of those that are not finite.

    Raises:
        OSError: If it cannot be made.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = folder_of(path)
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            told = f"`path` must be a folder that can be written. {error.strerror}"
            raise OSError(error.errno, told, str(path)) from error
        self.checkpoint = self._path / RUN
        self.count, self.bad = 0, list[int]()
        self._width, self._dtype = 0, "<f4"

    def write(self, run: Run | SharedRun, placement: Placement) -> None:
        """Everything that the run makes.

        Raises:
            ValueError: If it is of another run, or damaged.
            OSError: If it cannot be written.
        """
        with _called_path():
            self._write(run, placement)

    def _write(self, run: Run | SharedRun, placement: Placement) -> None:
        shared = run if isinstance(run, SharedRun) else None
        if shared is not None and (self._path / INFO).exists():
            advice = "Delete it to start anew, or open it with `SketchStore`."
            raise fail("path", "a folder without sketches, for ranks", str(self._path), advice)
        if not self.checkpoint.exists():
            (self._path / INFO).unlink(missing_ok=True)
        if shared is not None and shared.ranks.rank == 0:
            with replacing(rows_of(self.checkpoint)) as partial, partial.open("wb") as file:
                for values in self._parts(run, placement):
                    file.write(values.numpy().data)
            return
        for _ in self._parts(run, placement):
            written = rows_of(self.checkpoint).stat().st_size if shared is None else None
            if written is not None and written < self._bytes:
                raise OSError(
                    f"`path` must have room for all sketches. Got {str(self._path)!r}, which takes "
                    f"no more than the first {written // (self._bytes // self.count)}. Call again "
                    "to go on once there is room."
                )

    def _parts(self, run: Run | SharedRun, placement: Placement) -> Iterator[Tensor]:
        for part in run.parts():
            placement.add(part.indices, len(part))
            if len(part):
                values = part.scored.scores[COLUMN]
                bad = (~values.isfinite().all(1)).nonzero()[:, 0] + self.count
                self.bad += bad.tolist()
                self.count += len(values)
                self._width, self._dtype = values.shape[1], values.numpy().dtype.str
                yield values

    @property
    def _bytes(self) -> int:
        return self.count * self._width * np.dtype(self._dtype).itemsize

    def finish(
        self,
        run: Run | SharedRun,
        told: dict[str, Any],
        indices: Tensor | None,
        groups: dict[int, str] | None,
    ) -> None:
        """Says that all is there; ranks wait until rank 0 has.

        Args:
            run: Has ended.
            told: What else there is to tell.
            indices: Which samples of the dataset the sketches are of, if that needs to be told.
            groups: Names of the groups, by their place in a row.
        """

        def last() -> None:
            if indices is not None:
                with replacing(self._path / INDICES) as partial, partial.open("wb") as file:
                    np.save(file, indices.numpy())
            info = {
                **provenance(run),
                **told,
                "kind": KINDS[bool(told["norms"])],
                "count": self.count,
                "width": self._width,
                "numbers": self._dtype,
                "groups": None if groups is None else list(groups.values()),
                "places": None if groups is None else list(groups),
                "moved": indices is not None,
            }
            write_text(self._path / INFO, json.dumps(info, indent=1) + "\n")

        if not isinstance(run, SharedRun):
            last()
            return
        run.ranks.wait(last)
        mine = self.checkpoint.with_name(f"{RUN}.rank{run.ranks.rank}of{run.ranks.world}")
        for path in (mine, rows_of(mine)):
            path.unlink(missing_ok=True)
