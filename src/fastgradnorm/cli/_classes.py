"""What the classes of a model are called, on the pages of the command line."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fastgradnorm.cli._failures import BadInputError, told
from fastgradnorm.cli._files import ENCODING

Classes = Annotated[
    Path | None,
    typer.Option(
        help="Names of the classes, one a line, for the page; by default those of a transformers "
        "model."
    ),
]


def class_names(path: Path | None, model: Any, page: bool = True) -> list[str] | None:
    """Names in the order of the logits; None where nobody gave any.

    Args:
        path: A text file, a name a line.
        model: Whose configuration may have names, unless they are transformers' `LABEL_0`.
        page: Whether there will be one, which alone has them.

    Raises:
        BadInputError: If the file cannot be read, has no name in a line, or is read for nothing.
    """
    if path is None:
        return _configured(model) or None
    try:
        lines = path.read_text(encoding=ENCODING).rstrip().splitlines()
    except OSError as error:
        raise BadInputError(f"`--classes` must be a text file of names. {told(error)}.") from error
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"`--classes` must be a text file of names, in UTF-8. Got {path}."
        ) from error
    names = [line.strip() for line in lines]
    if not names or "" in names:
        place = f"Line {names.index('') + 1} of {path} is" if "" in names else f"{path} is"
        raise BadInputError(f"`--classes` must have a name in each line. {place} empty.")
    if not page:
        raise BadInputError(
            "`--classes` must be left out where there is no --report: the page alone has names of "
            "classes."
        )
    return names


def fitting(
    names: list[str] | None, seen: Iterable[Iterable[Any]], given: Path | None
) -> tuple[list[str] | None, str | None]:
    """The same names, if there is one for each class that was seen; and what is wrong if not.

    Args:
        names: As `class_names` has them.
        seen: Classes that were predicted, or came second.
        given: The file that was given, of which too many names are told.
    """
    numbers = [int(each) for column in seen for each in column if each is not None]
    most = max((number for number in numbers if number >= 0), default=-1)
    if names is None or most < len(names):
        if names is not None and given is not None and -1 < most < len(names) - 1:
            typer.echo(
                f"{given} names {len(names)} classes, and none from {most + 1}, "
                f"{names[most + 1]!r}, on is predicted: check that the model has as many.",
                err=True,
            )
        return names, None
    wrong = (
        f"`--classes` must name each class of the model, {most + 1} at least, for class {most} is "
        f"predicted, or next, and classes are counted from 0. Got {len(names)}. The page has "
        "numbers."
    )
    return None, None if given is None else wrong


def _configured(model: Any) -> list[str] | None:
    found = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(found, Mapping) or sorted(found) != list(range(len(found))):
        return None
    names = [str(found[number]) for number in range(len(found))]
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names
