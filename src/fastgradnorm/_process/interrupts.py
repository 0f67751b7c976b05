"""Ctrl-C waits for the end of a step, so that the process is left as it was found."""

import _signal  # type: ignore[import-not-found]  # `signal` makes enums of it: ten times the time
import contextlib
import itertools
import threading
from collections.abc import Iterator
from signal import SIGINT
from typing import Any, TypeVar

T = TypeVar("T")
_INTERRUPT = int(SIGINT)


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """The first interrupt inside is heard at the end of the block, a second one at once.

    `KeyboardInterrupt` is raised between any two instructions, also between those that enter or
    leave a context. A mode of PyTorch's or a level of its transforms then stays behind for the rest
    of the process, and whatever is called next fails, or is computed otherwise. Who hears signals
    by other means than a function of Python, or elsewhere than in the main thread, is let be.
    """
    before = _signal.getsignal(_INTERRUPT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, Any]] = []

    def hear(number: int, frame: Any) -> None:
        if came:
            before(number, frame)
        came.append((number, frame))

    _signal.signal(_INTERRUPT, hear)
    try:
        yield
    finally:
        _signal.signal(_INTERRUPT, before)
        if came:
            before(*came[0])


def in_steps(iterator: Iterator[T]) -> Iterator[T]:
    """The same items, each made before an interrupt is heard."""
    while True:
        with interrupts_wait():
            found = [*itertools.islice(iterator, 1)]
        if not found:
            return
        yield found.pop()
