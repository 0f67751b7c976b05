"""Freed memory kept for the next chunk instead of given back to the system in between.

A pass frees and asks for the same large blocks over and over. The GNU C library maps blocks of more
than 32 MiB anew each time and gives back what is free beyond 64 MiB, and the system then has to
clear every page again: a quarter of the time of a pass on the CPU. While a pool is scored it keeps
what it has; after that as much as a chunk works in, so that the next call finds that. By what size
it maps blocks is then what any program that has freed one large tensor has reached. Limits that the
user has set are left alone.
"""

import contextlib
import ctypes
import functools
import os
import platform
import threading
from collections.abc import Callable, Iterator

# From <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEP = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
_USUAL = ((_MMAP_MAX, 1 << 16), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 256 << 20))
_SETTINGS = (
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
)


@functools.cache
def _mallopt() -> Callable[[int, int], int] | None:
    set_by_user = any(name in os.environ for name in _SETTINGS)
    if set_by_user or platform.libc_ver()[0] != "glibc":
        return None
    function: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    return function


_running = 0  # scorers at work; the limits are the process's
_lock = threading.Lock()


@contextlib.contextmanager
def kept(wanted: bool) -> Iterator[None]:
    """Keeps freed memory inside, if that is wanted and the C library is GNU's."""
    mallopt = _mallopt() if wanted else None
    if mallopt is None:
        yield
        return
    _count(mallopt, 1)
    try:
        yield
    finally:
        if _count is not None:  # else the interpreter is ending
            _count(mallopt, -1)


def _count(mallopt: Callable[[int, int], int], change: int) -> None:
    global _running
    with _lock:
        before, _running = _running, _running + change
        if before == 0 or _running == 0:
            for option, value in _KEEP if _running else _USUAL:
                mallopt(option, value)
