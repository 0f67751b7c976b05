"""Files that are there whole or not at all, whenever the process or the machine stops."""

import codecs
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

# How text is written: names of files that are no text in UTF-8 keep their bytes, and halves of
# characters, which JSON can hold and no file can, are written as escapes.
ERRORS = "fastgradnorm.names"


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


codecs.register_error(ERRORS, _escaped)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A neighbour to write to, that takes the name of `path` if all went well, or else vanishes.

    Processes that write the same path do not disturb each other; the last one's file stays.

    Yields:
        The neighbour's path; it does not exist yet.

    Raises:
        OSError: If it cannot be written; a file that was there before is as it was.
    """
    target = Path(path)
    neighbour = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        yield neighbour
        with neighbour.open("rb+") as file:
            os.fsync(file.fileno())  # or its name might reach the disk before its content
        neighbour.replace(target)
    except OSError as error:
        if error.filename != str(neighbour):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error  # as the caller named it
    finally:
        neighbour.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes all of it or, where the disk is full, nothing: no half list, no half page.

    Raises:
        OSError: If it cannot be written; a file that was there before is as it was.
    """
    target = Path(path)
    if target.exists() and not target.is_file():  # a terminal, a pipe
        target.write_text(text, encoding="utf-8", errors=ERRORS)
        return
    with replacing(target) as neighbour:
        neighbour.write_text(text, encoding="utf-8", errors=ERRORS)
