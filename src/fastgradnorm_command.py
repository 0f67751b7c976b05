"""The script ``fastgradnorm``: Ctrl-C is heard while PyTorch is being imported, and at the end.

In a module of its own, for what lies within the package is imported after PyTorch. An interrupt
that is raised within an import is a traceback of that import, or is lost there.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

_INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    heard = signal.getsignal(signal.SIGINT)
    if heard is signal.default_int_handler:  # not where a shell's background ignores it
        signal.signal(signal.SIGINT, _leave)
    from fastgradnorm.cli import main as run

    signal.signal(signal.SIGINT, heard)
    try:
        end = _ran(run)
    except KeyboardInterrupt:  # another one, while the first was told or the command ended
        _exit_now()
    if end.code == _INTERRUPTED:
        _exit_now()
    raise end


def _ran(run: Callable[[], None]) -> SystemExit:
    """How it ended; from then on no interrupt is heard."""
    end = SystemExit(0)
    try:
        run()
    except SystemExit as left:
        end = left
    _ended()
    return end


def _leave(*_: Any) -> None:
    """Ends the process at once: nothing has been done yet that could be kept."""
    os.write(2, b"fastgradnorm: interrupted.\n")
    os._exit(_INTERRUPTED)


def _ended() -> None:
    """All is done and told: another Ctrl-C only meets what libraries do when a process ends.

    Raised there it is a traceback of theirs, or ends the process by the signal, and so with another
    exit code than that of what was done.
    """
    if signal.getsignal(signal.SIGINT) is not None:  # None: set by no Python
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _exit_now() -> NoReturn:
    """Leaves out what libraries do then, which may wait for threads that were stopped midway."""
    try:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    finally:
        os._exit(_INTERRUPTED)
