"""One line to the user for what went wrong; the traceback only where it is asked for.

Exit codes: 1 the work failed, 2 something given was wrong, 130 interrupted.
"""

import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from fastgradnorm import ArgumentError, ArgumentTypeError, UnsupportedModelError
from fastgradnorm.cli._wording import spoken

# Import name -> (the distribution that brings it, the extra that asks for it).
_EXTRAS = {
    "typer": ("typer", "cli"),
    "matplotlib": ("matplotlib", "cli"),
    "PIL": ("pillow", "cli"),
    "safetensors": ("safetensors", "cli"),
    "pyarrow": ("pyarrow", "parquet"),
    "transformers": ("transformers", "huggingface"),
    "tokenizers": ("tokenizers", "huggingface"),
    "sklearn": ("scikit-learn", "demo"),
    "rich": ("rich", "demo"),
}


# What was given has to be another: of the functions' arguments, or of the model.
_GIVEN_WRONG = (ArgumentError, ArgumentTypeError, UnsupportedModelError)


class BadInputError(ValueError):
    """A file, folder or option that a command was given cannot be used."""


@contextmanager
def in_options(options: Mapping[str, str]) -> Iterator[None]:
    """Tells of arguments that cannot be used as what they are on the command line.

    Args:
        options: What the user wrote, by the argument of the function that it went to.

    Raises:
        BadInputError: For each `ArgumentError` or `ArgumentTypeError` about one of them.
    """
    try:
        yield
    except (ArgumentError, ArgumentTypeError) as error:
        if error.argument not in options:
            raise
        message = str(error)
        for name, option in options.items():
            message = message.replace(f"`{name}`", f"`{option}`")
        raise BadInputError(spoken(message)) from error


@contextmanager
def interrupts() -> Iterator[None]:
    """Ends the process with a line where the user interrupts it."""
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted.", 130)


@contextmanager
def plain_failures(*, debug: bool = False) -> Iterator[None]:
    """Ends the process with one line on standard error and an exit code."""
    try:
        with interrupts():
            yield
    except ModuleNotFoundError as error:
        package, extra = _EXTRAS.get((error.name or "").partition(".")[0], (None, None))
        if debug or package is None:
            raise
        fail(f'{package} is not installed. Run: pip install "fastgradnorm[{extra}]"', 1)
    except (ValueError, TypeError) as error:
        if debug:
            raise
        message = first_cause(str(error))
        if isinstance(error, BadInputError):
            fail(message, 2)
        fail(spoken(message), 2 if isinstance(error, _GIVEN_WRONG) else 1)
    except OSError as error:
        if debug:
            raise
        fail(told(error), 1)


def near(given: str, names: Iterable[str]) -> str:
    """` Did you mean ...?`, if a name is close."""
    found = difflib.get_close_matches(given, [*names], n=1)
    return f" Did you mean {found[0]!r}?" if found else ""


def first_cause(message: str) -> str:
    """The message alone, where a loader's worker wrapped it in a traceback."""
    if not message.startswith("Caught "):
        return message
    return message.strip().splitlines()[-1].partition(": ")[2]


def told(error: OSError) -> str:
    """What the system says, and of which file."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def fail(message: str, code: int) -> NoReturn:
    """Prints the message and leaves."""
    print(f"fastgradnorm: {message}", file=sys.stderr)
    raise SystemExit(code)
