"""Frameworks rank samples by one score."""

from collections.abc import Mapping
from typing import Any


def check_one_scheme(options: Mapping[str, Any]) -> None:
    """Raises if several schemes are asked for."""
    scheme = options.get("scheme", "expected")
    if not isinstance(scheme, str):
        raise TypeError(
            f"`scheme` must be one name, since samples are ranked by it. Got {scheme!r}. "
            "For several, call fastgradnorm.score_pool."
        )
