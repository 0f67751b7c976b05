"""Triton's interpreter without its repetitions, which take half of its time.

Before it runs a kernel it replaces some two hundred functions of `triton.language` by its own; and
does so again at each call that the kernel makes of another function, where all are replaced already
and only the search for them is left. Here that search is made once a launch, for each of the
modules that are replaced; what is computed is the same.
"""

import functools
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

_REPLACED: list[set[int]] = []  # by launch, outermost first: of functions, whose modules they are
_NOTHING = SimpleNamespace(restore=lambda: None)


@contextmanager
def _launch() -> Any:
    _REPLACED.append(set())
    try:
        yield
    finally:
        _REPLACED.pop()


def search_once_a_launch() -> None:
    """Leaves out what is done already; nothing where the interpreter is made in another way."""
    search = getattr(interpreter, "_patch_lang", None)
    executor = getattr(interpreter, "GridExecutor", None)
    if search is None or executor is None or hasattr(search, "__wrapped__"):
        return

    @functools.wraps(search)
    def searched(fn: Any) -> Any:
        if not _REPLACED:
            return search(fn)
        known = _REPLACED[-1]
        # A function by its module's names: they say what of the language it can reach.
        if id(fn.__globals__) in known:
            return _NOTHING
        languages = {id(v) for v in fn.__globals__.values() if v is tl or v is tl.core}
        done = bool(languages) and languages <= known
        known.update(languages, [id(fn.__globals__)])
        return _NOTHING if done else search(fn)

    launched = executor.__call__

    @functools.wraps(launched)
    def launch(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _launch():
            return launched(self, *args, **kwargs)

    interpreter._patch_lang = searched
    executor.__call__ = launch
