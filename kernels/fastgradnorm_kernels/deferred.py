"""Whether any of some values is true, asked while a pass is traced: looked at afterwards.

A traced pass cannot do one thing for some numbers and another for others. So it is told that there
are none, and what was asked is handed to whoever traces, who looks at it after each replay.
"""

import contextlib
import threading
from collections.abc import Iterator

from torch import Tensor

_asking = threading.local()


@contextlib.contextmanager
def deferred() -> Iterator[list[Tensor]]:
    """Inside, `is_any` says no in this thread, and adds what it was asked to the list."""
    before = getattr(_asking, "asked", None)
    _asking.asked = asked = list[Tensor]()
    try:
        yield asked
    finally:
        _asking.asked = before


def is_deferred() -> bool:
    """Whether answers are looked at later."""
    return getattr(_asking, "asked", None) is not None


def is_any(values: Tensor) -> bool:
    """Whether one of some values is true."""
    asked: list[Tensor] | None = getattr(_asking, "asked", None)
    if asked is None:
        return bool(values.any())
    asked.append(values.any())
    return False
