"""What the classes of a model are called, on the pages of the command line."""

import re
from collections.abc import Mapping
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


def class_names(path: Path | None, model: Any) -> list[str] | None:
    """Names in the order of the logits; None where nobody gave any.

    Args:
        path: A text file, a name a line.
        model: Whose configuration may have names, unless they are transformers' `LABEL_0`.

    Raises:
        BadInputError: If the file cannot be read, or has no name in a line.
    """
    if path is None:
        return _configured(model) or None
    try:
        lines = path.read_text(encoding=ENCODING).rstrip().splitlines()
    except OSError as error:
        raise BadInputError(f"`--classes` must be a text file of names. {told(error)}.") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"`--classes` must be a text file of names. Got {path}.") from error
    names = [line.strip() for line in lines]
    if not names or "" in names:
        place = f"Line {names.index('') + 1} of {path} is" if "" in names else f"{path} is"
        raise BadInputError(f"`--classes` must have a name in each line. {place} empty.")
    return names


def check_number(names: list[str] | None, predicted: Any, given: Path | None) -> list[str] | None:
    """The same names, if there is one for each class that was predicted.

    Raises:
        BadInputError: If there are fewer in the file that was given.
    """
    most = max((int(each) for each in predicted if each is not None), default=-1)
    if names is None or most < len(names):
        return names
    if given is None:
        return None
    raise BadInputError(
        f"`--classes` must name each class of the model, {most + 1} at least, for class {most} is "
        f"predicted and classes are counted from 0. Got {len(names)}."
    )


def _configured(model: Any) -> list[str] | None:
    found = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(found, Mapping) or sorted(found) != list(range(len(found))):
        return None
    names = [str(found[number]) for number in range(len(found))]
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names
