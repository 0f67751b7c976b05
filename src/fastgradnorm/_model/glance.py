"""Whether nothing at all has changed of a model's modules: told at a glance, for every batch.

To look for what matters of what has changed takes longer than small batches do.
"""

from collections.abc import Callable, Iterable
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


class Mappings:
    """What is in many mappings, looked at in one pass over all of them.

    Args:
        mapping: Of what is added; None: it is one itself.
    """

    def __init__(self, mapping: Callable[[Any], dict[Any, Any]] | None = None) -> None:
        self._mapping, self._owners = mapping, list[Any]()
        self._sizes, self._keys, self._values = list[int](), list[Any](), list[Any]()

    def add(self, owner: Any) -> list[Any]:
        """One more; what is in it."""
        held: dict[Any, Any] = owner if self._mapping is None else self._mapping(owner)
        keys, values = [*dict.keys(held)], [*dict.values(held)]
        self._owners.append(owner)
        self._sizes.append(len(keys))
        self._keys += keys
        self._values += values
        return keys + values

    def hold(self) -> bool:
        """Whether they hold the same, in the same order."""
        here = self._owners if self._mapping is None else [*map(self._mapping, self._owners)]
        return (
            [*map(dict.__len__, here)] == self._sizes
            and are([*chain.from_iterable(map(dict.keys, here))], self._keys)
            and are([*chain.from_iterable(map(dict.values, here))], self._values)
        )


def are(now: list[Any], before: list[Any]) -> bool:
    """Whether they are the same, or equal numbers and texts, which may be made anew."""
    if len(now) != len(before):
        return False
    if all(map(is_, now, before)):
        return True
    pairs = zip(now, before, strict=True)
    return all(
        a is b or (type(a) is type(b) and type(a) in (int, str) and a == b) for a, b in pairs
    )
