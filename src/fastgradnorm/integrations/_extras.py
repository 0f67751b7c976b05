"""What to install where a framework is missing."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Names the extra to install if an import inside fails for want of a package."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"This adapter needs `{error.name}`: `pip install fastgradnorm[{extra}]`.",
            name=error.name,
        ) from error
