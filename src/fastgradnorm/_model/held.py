"""What modules hold in attributes and containers, put back after a call of the caller's model."""

import math
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

_CONTAINERS = frozenset({list, dict, OrderedDict, defaultdict, set, deque})
_NESTED = _CONTAINERS | {tuple}
_EVERY = frozenset(vars(nn.Module()))  # attributes that every module has
_NOTHING = object()
_DEPTH = 4  # of lists in dicts in lists, as copies of a module tree are made


class Held:
    """Dictionaries of attributes as they are now, and all that is in containers in them.

    Args:
        attributes: One of each module.
        every: Whether with what every module has, such as its registered buffers and hooks.
        most: Entries of a container: longer ones, as vocabularies and data, are not looked at.
    """

    def __init__(
        self, attributes: Iterable[dict[str, Any]], every: bool = True, most: float = math.inf
    ) -> None:
        self._left_out = frozenset() if every else _EVERY
        self._attributes = [
            (there, {k: v for k, v in there.items() if k not in self._left_out})
            for there in attributes
        ]
        found: dict[int, Any] = {}
        for _, before in self._attributes:
            for value in before.values():
                found.update((id(inner), inner) for inner in _within(value, _DEPTH, most))
        self._contents = [(inner, inner.copy()) for inner in found.values()]

    def changed(self) -> tuple[int, str] | None:
        """An attribute that is another now: of which dictionary, and its name. None if none is.

        What every module has apart, such as its registered buffers.
        """
        for place, (there, before) in enumerate(self._attributes):
            for name in (n for n in {**before, **there} if n not in _EVERY):
                value = before.get(name, _NOTHING)
                if there.get(name, _NOTHING) is not value or any(
                    not _alike(inner, contents)
                    for inner, contents in self._contents
                    if inner is value
                ):
                    return place, name
        return None

    def put_back(self) -> None:
        """The same attributes, with the same containers, and the same objects in these."""
        for there, before in self._attributes:
            for name in there.keys() - before.keys() - self._left_out:
                del there[name]
            there.update(before)
        for inner, contents in self._contents:
            if not _alike(inner, contents):
                inner.clear()
                if isinstance(inner, (list, deque)):
                    inner.extend(contents)
                else:
                    inner.update(contents)


def _within(value: Any, depth: int, most: float) -> Iterator[Any]:
    """A container, and those in it."""
    if type(value) not in _NESTED or len(value) > most:
        return
    if type(value) in _CONTAINERS:
        yield value
    if depth:
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _within(part, depth - 1, most)


def _alike(now: Any, before: Any) -> bool:
    """Whether two containers hold the same objects in the same order."""
    if len(now) != len(before):
        return False
    if isinstance(now, dict):
        pairs = zip(now.items(), before.items(), strict=True)
        return all(k is j and v is w for (k, v), (j, w) in pairs)
    return all(a is b for a, b in zip(now, before, strict=True))
