"""Commands that go on where they were stopped: what they keep for it, and what they say of it."""

import contextlib
import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from fastgradnorm import ArgumentError
from fastgradnorm.cli._failures import BadInputError, fail

Resume = Annotated[bool, typer.Option(help="Go on where the same command was interrupted.")]
_PROBE = 16384  # bytes: more than the head of a checkpoint
# What a run keeps is in files of these names: scores, features, the same of what is labelled.
_FILES = ("", ".bin", ".labelled", ".labelled.bin")


def checkpoint_at(place: Path, option: str, resume: bool) -> Path | None:
    """The same place; None where the disk is so full that a checkpoint would end the run.

    Args:
        place: Of the checkpoint.
        option: What the user chose the place with.
        resume: Go on with what is there; else it is deleted.

    Raises:
        BadInputError: If no file can be written there.
    """
    if place.is_dir():
        raise BadInputError(
            f"`{option}` must leave room for what is kept of a run. {place} is a folder. Choose "
            "another place."
        )
    if not resume:
        forget(place)
    probe = place.with_name(f"{place.name}.probe")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(_PROBE))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise BadInputError(
                f"`{option}` must be where files can be written. {place.parent}: "
                f"{error.strerror or error}. Choose another place."
            ) from error
        typer.echo(
            f"fastgradnorm: warning: {place.parent} is full: scoring without a checkpoint. "
            "If it stays full, what is found goes elsewhere.",
            err=True,
        )
        return None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return place


@contextlib.contextmanager
def going_on(place: Path | None, option: str, advice: str = "") -> Iterator[None]:
    """Tells of a run that is interrupted, or was of something else, what the user can do.

    Args:
        place: Of the checkpoint, if there is one.
        option: What the user chooses the place with.
        advice: What to do where there is no place for one.
    """
    try:
        yield
    except KeyboardInterrupt:
        fail(f"interrupted.{advice if place is None else f' {_kept(place)}'}", 130)
    except ArgumentError as error:
        if error.argument != "checkpoint":
            raise
        raise BadInputError(
            f"{error} On the command line: another {option}, or --no-resume."
        ) from error


def _kept(place: Path) -> str:
    """What the same command will not read again, in a sentence."""
    found, labelled = _count(place), _count(place.with_name(f"{place.name}.labelled"))
    told = [f"{found:,} samples of the pool"] if found else []
    told += [f"{labelled:,} labelled ones"] if labelled else []
    if not told:
        return "Nothing is kept yet: the same command begins anew."
    return (
        f"{place} keeps {' and '.join(told)}: the same command goes on from there, and reads the "
        "rest again."
    )


def _count(place: Path) -> int:
    """Samples of which a checkpoint holds what was found: its lines say how many each adds."""
    found = 0
    try:
        with place.open("rb") as file:
            for line in file:
                content = line.partition(b" ")[2]
                if content.startswith(b'{"read"') and line.endswith(b"\n"):
                    found += int(json.loads(content)["read"])
    except (OSError, ValueError):  # it is told as damaged by the run that opens it
        return found
    return found


def forget(place: Path | None) -> None:
    """Deletes a checkpoint, once all that it is for is written."""
    if place is not None:
        for suffix in _FILES:
            place.with_name(place.name + suffix).unlink(missing_ok=True)
