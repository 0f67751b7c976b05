"""What PyTorch says of its transforms, and is not the user's concern."""

import contextlib
import re
import warnings
from contextlib import AbstractContextManager
from typing import Any, cast

# The comment makes it another filter than any that the caller has, for it is removed by value.
_TOLD = "(?#fastgradnorm)There is a performance drop because we have not yet implemented"
_FILTER = ("ignore", re.compile(_TOLD), UserWarning, None, 0)


class NoWordOfFallbacks(AbstractContextManager[None]):
    """PyTorch's request for a report is not shown where `vmap` runs an operation row by row.

    The values are right; and where a user's filters make errors of warnings, as many tests' do, it
    would stop the pass in its middle. The filter is put into the list itself: by a call of
    `filterwarnings` Python would forget which warnings of others it has shown once.
    """

    def __enter__(self) -> None:
        self._filters = _current()
        self._filters.insert(0, _FILTER)

    def __exit__(self, *_: object) -> None:
        # The list may be another meanwhile, a copy of that one: `catch_warnings` makes one.
        for filters in (self._filters, _current()):
            with contextlib.suppress(ValueError):
                filters.remove(_FILTER)


def _current() -> list[Any]:
    return cast("list[Any]", warnings.filters)
