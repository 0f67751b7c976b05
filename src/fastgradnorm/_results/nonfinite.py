"""NaN and infinite results, told once everything is there."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

from fastgradnorm._errors import NonFiniteScoreError


def tell_nonfinite(
    what: str,
    indices: Sequence[int],
    count: int,
    everything: Any,
    how: Literal["raise", "warn", "keep"],
) -> None:
    """Warns of NaN and infinite ones among `count`, or raises an error that holds `everything`."""
    some = ", ".join(map(str, indices[:10])) + (", ..." if len(indices) > 10 else "")
    cause = "these inputs" if len(indices) < count else "the model's weights, and the inputs"
    message = f"{len(indices)} of {count} {what} are NaN or infinite: samples {some}. Check {cause}"
    if how == "warn":
        warnings.warn(f"{message}.", stacklevel=4)
    elif how == "raise":
        advice = f"`on_nonfinite='keep'` passes the {what} on."
        raise NonFiniteScoreError(f"{message}; {advice}", indices, everything)
