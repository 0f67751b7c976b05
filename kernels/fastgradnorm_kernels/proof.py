"""How a private path of PyTorch proves itself: once, by a tiny call beside its public form.

PyTorch may change what is private in any version, and quietly. So nothing of it is relied on before
it has given here what the public form gives. Where it does not, the public form is taken from then
on: slower, as exact, and told once.
"""

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch


class SlowPathWarning(UserWarning):
    """Scores stay exact, but something makes them slow; the message names it."""


# What tells of each path, by name: with `cache_clear()` it is proved anew.
PATHS: dict[str, Any] = {}
# In the thread of a proof, which path that is.
_proving = threading.local()


def proves(path: str, instead: str) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    """Makes a function that tells whether a private path can be relied on.

    What it decorates compares the path with its public form: False, or any exception, says no. It
    is called once, when first asked for, in a thread of its own: no transform, mode or autocast of
    the caller's is active there, and none of its results reaches the caller's.

    Args:
        path: What it is called in PyTorch.
        instead: What is done without it.

    Warns:
        SlowPathWarning: If it cannot be relied on, when that is found out.
    """

    def decorate(comparison: Callable[[], bool]) -> Callable[[], bool]:
        @functools.cache
        def is_proved() -> bool:
            if getattr(_proving, "path", None) == path:
                return False  # asked for by its own proof: not yet
            proved, reason = _elsewhere(path, comparison)
            if not proved:
                warnings.warn(
                    f"PyTorch {torch.__version__} does not do what `{path}` did in the versions "
                    f"that fastgradnorm is tested with ({reason}). Scores stay exact: {instead}, "
                    "which is slower. Look for a newer fastgradnorm.",
                    SlowPathWarning,
                    stacklevel=2,
                )
            return proved

        PATHS[path] = is_proved
        return is_proved

    return decorate


def _elsewhere(path: str, comparison: Callable[[], bool]) -> tuple[bool, str]:
    """Whether a comparison holds, in a thread without the caller's state; if not, why."""
    found = [(False, "it ended its thread")]

    def compare() -> None:
        _proving.path = path
        try:
            found[0] = bool(comparison()), "it gives something else"
        except Exception as error:  # whatever a changed path may raise
            found[0] = False, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"

    thread = threading.Thread(target=compare, name="fastgradnorm-proof")
    thread.start()
    thread.join()
    return found[0]
