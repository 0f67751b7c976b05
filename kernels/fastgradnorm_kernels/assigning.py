"""Other values for names of a module, for a while."""

from contextlib import AbstractContextManager
from typing import Any


class assigned(AbstractContextManager[None]):
    """Names of a module, those that it has, with other values inside."""

    def __init__(self, module: Any, values: dict[str, Any]) -> None:
        self._module, self._values = module, values
        self._before: dict[str, Any] = {}

    def __enter__(self) -> None:
        module, values = self._module, self._values
        self._before = {name: getattr(module, name) for name in values if hasattr(module, name)}
        for name in self._before:
            setattr(module, name, values[name])

    def __exit__(self, *_: object) -> None:
        module, values = self._module, self._values
        for name, value in self._before.items():
            if getattr(module, name) is values[name]:  # else another has changed it since
                setattr(module, name, value)
