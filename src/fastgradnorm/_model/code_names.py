"""What a function names, and whose a function or class is."""

import dis
import functools
import sys
from collections.abc import Collection, Iterator
from types import CodeType, ModuleType
from typing import Any

_OF_MODULES = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})


def names_in(code: CodeType) -> Iterator[str]:
    """Names of globals and attributes that code uses, and functions within it.

    And all that is called so by chance.
    """
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


@functools.lru_cache(maxsize=1 << 12)
def globals_in(code: CodeType) -> frozenset[str]:
    """Names of its module, or builtins, that code reads, and functions within it."""
    found = {i.argval for i in dis.get_instructions(code) if i.opname in _OF_MODULES}
    within = (globals_in(each) for each in code.co_consts if isinstance(each, CodeType))
    return frozenset(found).union(*within)


def is_of_packages(thing: Any, packages: Collection[str]) -> bool:
    """Whether a function, class or module of code is of these or of Python: no caller's."""
    name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", "")
    root = str(name).partition(".")[0]
    return root in packages or (root in sys.stdlib_module_names and root != "__main__")
