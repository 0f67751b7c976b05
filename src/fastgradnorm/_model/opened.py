"""What a loader yields, whatever holds it, as a list of leaves by name, and put together again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.utils import _pytree as pytree

_CLOSED = (Tensor, np.ndarray, np.generic, nn.Module, type, ModuleType, FunctionType, str, bytes)
_DEPTH = 5


class Opened(NamedTuple):
    """Leaves, and what they were taken from.

    Attributes:
        named: Each leaf with its place: `['ids']`, `[0]`, `.mask`.
        close: From as many leaves to an object like the one that was opened, which stays as it is.
    """

    named: list[tuple[str, Any]]
    close: Callable[[Sequence[Any]], Any]


def opened(item: Any, name: str = "", depth: int = _DEPTH) -> Opened:
    """The leaves of nested containers: those that PyTorch knows, and what else holds tensors.

    That is any mapping or dataclass, and any object with tensors among its attributes. What holds
    none is a leaf itself.
    """
    found, spec = pytree.tree_flatten_with_path(item)
    parts = [_part(leaf, name + pytree.keystr(path), depth) for path, leaf in found]

    def close(leaves: Sequence[Any]) -> Any:
        closed, start = [], 0
        for part in parts:
            end = start + len(part.named)
            closed.append(part.close(leaves[start:end]))
            start = end
        return pytree.tree_unflatten(closed, spec)

    return Opened([pair for part in parts for pair in part.named], close)


def _part(leaf: Any, name: str, depth: int) -> Opened:
    for shell in _shells(leaf) if depth and not isinstance(leaf, _CLOSED) else ():
        inside = opened(shell.content, name, depth - 1)
        if any(isinstance(each, Tensor) for _, each in inside.named):
            return Opened(inside.named, _filling(shell, inside))
    return Opened([(name, leaf)], lambda leaves: leaves[0])


class _Shell(NamedTuple):
    """A container: what is in it, as PyTorch knows containers, and a copy with something else."""

    content: Any
    fill: Callable[[Any], Any]


def _filling(shell: _Shell, inside: Opened) -> Callable[[Sequence[Any]], Any]:
    return lambda leaves: shell.fill(inside.close(leaves))


def _shells(item: Any) -> Iterator[_Shell]:
    """Ways to look into an object, the likeliest first."""
    if isinstance(item, dict):  # of a class of its own
        yield _Shell(dict(item), lambda content: _as(item, dict, content))
    elif isinstance(item, (list, tuple)):
        plain = tuple if isinstance(item, tuple) else list
        yield _Shell(list(item), lambda content: _as(item, plain, content))
    elif is_dataclass(item):
        names = [field.name for field in fields(item) if hasattr(item, field.name)]
        content = {each: getattr(item, each) for each in names}
        yield _Shell(content, lambda filled: _with_attributes(item, filled))
    elif vars_of(item):
        yield _Shell(dict(vars(item)), lambda filled: _with_attributes(item, filled))
    if isinstance(item, Mapping) and not isinstance(item, dict):  # its items are elsewhere
        yield _Shell(dict(item), lambda filled: filled)


def vars_of(item: Any) -> dict[str, Any]:
    """Its attributes, if it has a dictionary of them."""
    found = getattr(item, "__dict__", None)
    return found if isinstance(found, dict) else {}


def _as(item: Any, plain: Any, content: Any) -> Any:
    """A container of the same class with other items, made without its constructor."""
    kind: Any = type(item)
    if plain is tuple:
        made = tuple.__new__(kind, content)
    else:
        made = kind.__new__(kind)
        (dict.update if plain is dict else list.extend)(made, content)
    for name, value in vars_of(item).items():
        same = plain is dict and name in content  # items that are attributes too
        object.__setattr__(made, name, content[name] if same else value)
    return made


def _with_attributes(item: Any, content: Mapping[str, Any]) -> Any:
    """An object of the same class with other attributes, made without its constructor."""
    kind: Any = type(item)
    try:
        made = object.__new__(kind)
    except TypeError:  # a class that is not made of attributes alone
        made = kind.__new__(kind)
    for name, value in {**vars_of(item), **content}.items():
        object.__setattr__(made, name, value)
    return made
