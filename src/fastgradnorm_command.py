"""The script ``fastgradnorm``: Ctrl-C is heard while PyTorch is still being imported.

In a module of its own, for what lies within the package is imported after PyTorch. An interrupt
that is raised within an import is a traceback of that import, or is lost there.
"""

import os
import signal
from typing import Any


def main() -> None:
    """Run the command line."""
    heard = signal.getsignal(signal.SIGINT)
    if heard is signal.default_int_handler:  # not where a shell's background ignores it
        signal.signal(signal.SIGINT, _leave)
    from fastgradnorm.cli import main as run

    signal.signal(signal.SIGINT, heard)
    run()


def _leave(*_: Any) -> None:
    """Ends the process at once: nothing has been done yet that could be kept."""
    os.write(2, b"fastgradnorm: interrupted.\n")
    os._exit(130)
