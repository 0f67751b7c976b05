"""Chosen files put where people label them: copied, or linked to."""

import filecmp
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from fastgradnorm.cli._failures import BadInputError
from fastgradnorm.cli._samples import Pool


def check_place(pool: Pool, place: Path, option: str) -> None:
    """Raises `BadInputError` unless files may go there, where no later run takes them for pool."""
    if pool.root is None:
        raise BadInputError(f"`{option}` must be left out where the pool is no folder of files.")
    here, root = place.resolve(), pool.root.resolve()
    if here == root or root in here.parents:
        raise BadInputError(
            f"`{option}` must be a folder outside of the pool, {pool.root}, of which it would "
            f"become a part. Got {place}."
        )
    if os.path.lexists(place) and not place.is_dir():
        raise BadInputError(f"`{option}` must be a folder. Got a file, {place}.")


def copy_to(pool: Pool, indices: Sequence[int], place: Path) -> None:
    """Copies files, below the folders that they are in. Those that are there already stay."""
    _put(pool, indices, place, "--copy-to", _copy)


def _copy(source: Path, to: Path) -> None:
    # Half a file would be another one for the next run. Names may be as long as they can be, and
    # files not be writable, so that this is no `replacing`.
    partial = to.with_name(f".{os.getpid()}.partial")
    try:
        shutil.copy2(source, partial)
        partial.replace(to)
    finally:
        partial.unlink(missing_ok=True)


def link_to(pool: Pool, indices: Sequence[int], place: Path) -> None:
    """Makes symbolic links to files, below the folders that they are in."""
    _put(pool, indices, place, "--link-to", lambda source, to: os.symlink(source.resolve(), to))


def others(pool: Pool, indices: Sequence[int], place: Path) -> list[str]:
    """Files in a folder that are not those of the samples, as of an earlier choice; not hidden."""
    own = {Path(pool.files[i]) for i in indices}
    found = (Path(root, name) for root, _, names in os.walk(place) for name in names)
    inside = (path.relative_to(place) for path in found if not path.name.startswith("."))
    return sorted(str(path) for path in inside if path not in own)


def _put(
    pool: Pool,
    indices: Sequence[int],
    place: Path,
    option: str,
    put: Callable[[Path, Path], object],
) -> None:
    assert pool.root is not None
    files = dict.fromkeys(pool.path(i) for i in indices)  # frames of one file: once
    pairs = [(Path(file), place / Path(file).relative_to(pool.root)) for file in files]
    for source, to in pairs:
        if os.path.lexists(to) and not (to.is_file() and filecmp.cmp(source, to, shallow=False)):
            raise BadInputError(
                f"`{option}` must have no other files of the same names. {to} is not {source}."
            )
    for source, to in pairs:
        if not os.path.lexists(to):
            to.parent.mkdir(parents=True, exist_ok=True)
            put(source, to)
