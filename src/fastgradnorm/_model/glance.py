"""Whether nothing at all has changed of a model's modules: told at a glance, for every batch.

To look for what matters of what has changed takes longer than small batches do.
"""

from collections.abc import Iterable
from itertools import chain
from operator import is_
from typing import Any

from torch import nn


class Glance:
    """What modules hold at this moment, and what is in their mappings, such as those of hooks.

    Each thing is known by what it is, and not by its value.

    Args:
        modules: All of them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = [*modules]
        mappings = [
            value
            for module in self._modules
            for value in vars(module).values()
            if isinstance(value, dict)
        ]
        self._empty = [mapping for mapping in mappings if not mapping]
        self._full = [mapping for mapping in mappings if mapping]
        here = self._here()
        self._count = sum(map(len, here))
        self._names = [*chain.from_iterable(here)]
        self._values = [*chain.from_iterable(map(dict.values, here))]

    def holds(self) -> bool:
        """Whether they hold the same things by the same names."""
        here = self._here()
        return (
            not any(self._empty)
            and sum(map(len, here)) == self._count
            and all(map(is_, chain.from_iterable(here), self._names))
            and all(map(is_, chain.from_iterable(map(dict.values, here)), self._values))
        )

    def _here(self) -> list[dict[Any, Any]]:
        return [*map(vars, self._modules), *self._full]
