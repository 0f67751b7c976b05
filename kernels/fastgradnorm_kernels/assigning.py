"""Other values for names of a module, for a while."""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def assigned(module: Any, values: dict[str, Any]) -> Iterator[None]:
    """Names of a module, those that it has, with other values inside."""
    before = {name: getattr(module, name) for name in values if hasattr(module, name)}
    try:
        for name in before:
            setattr(module, name, values[name])
        yield
    finally:
        for name, value in before.items():
            if getattr(module, name) is values[name]:  # else another has changed it since
                setattr(module, name, value)
