"""The C library's usual memory settings, for what is timed beside a scorer of ours."""

import contextlib
from collections.abc import Iterator

from fastgradnorm._process import heap


@contextlib.contextmanager
def usual_memory() -> Iterator[None]:
    """Inside, freed memory goes back to the system as where nothing is scored."""
    mallopt = heap._mallopt()
    if mallopt is None or not heap._running:
        yield
        return
    for setting in heap._USUAL:
        mallopt(*setting)
    try:
        yield
    finally:
        for setting in heap._KEEP if heap._running else ():
            mallopt(*setting)
