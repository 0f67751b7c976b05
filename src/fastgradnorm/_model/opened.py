"""What a loader yields, whatever holds it, as a list of leaves by name, and put together again."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.utils import _pytree as pytree

_CLOSED = (Tensor, np.ndarray, np.generic, nn.Module, type, ModuleType, FunctionType, str, bytes)
_DEPTH = 5

_Test = Callable[[Any], bool]


class Opened(NamedTuple):
    """Leaves, and what they were taken from.

    Attributes:
        named: Each leaf with its place: `['ids']`, `[0]`, `.mask`.
        close: From as many leaves to an object like the one that was opened, which stays as it is.
            It holds none of the leaves.
        form: Equal where containers are alike, but for leaves and what is beside them.
        beside: What containers hold that is no leaf: attributes of mappings and sequences.
    """

    named: list[tuple[str, Any]]
    close: Callable[[Sequence[Any]], Any]
    form: Any = None
    beside: tuple[tuple[str, Any], ...] = ()


def opened(item: Any, name: str = "", depth: int = _DEPTH, closed: _Test | None = None) -> Opened:
    """The leaves of nested containers: those that PyTorch knows, and what else holds tensors.

    That is any mapping or dataclass, and any object with tensors among its attributes. What holds
    none is a leaf itself, and so is what `closed` says.
    """
    if type(item) is Tensor:
        return Opened([(name, item)], _only, Tensor)
    found, spec = pytree.tree_flatten_with_path(item, closed)
    parts = [_part(leaf, name + pytree.keystr(path), depth, closed) for path, leaf in found]
    closing = [(len(part.named), part.close) for part in parts]

    def close(leaves: Sequence[Any]) -> Any:
        filled, start = [], 0
        for count, close_part in closing:
            filled.append(close_part(leaves[start : start + count]))
            start += count
        return pytree.tree_unflatten(filled, spec)

    named = [pair for part in parts for pair in part.named]
    form = spec, tuple(part.form for part in parts)
    return Opened(named, close, form, tuple(pair for part in parts for pair in part.beside))


def _part(leaf: Any, name: str, depth: int, closed: _Test | None) -> Opened:
    for shell in _shells(leaf) if depth and not isinstance(leaf, _CLOSED) else ():
        inside = opened(shell.content, name, depth - 1, closed)
        if any(isinstance(each, Tensor) for _, each in inside.named):
            beside = [(f"{name}.{key}", value) for key, value in shell.rest.items()]
            return Opened(
                inside.named,
                _filling(shell.fill, inside.close),
                (type(leaf), tuple(shell.rest), inside.form),
                (*beside, *inside.beside),
            )
    return Opened([(name, leaf)], _only)


def _only(leaves: Sequence[Any]) -> Any:
    return leaves[0]


class _Shell(NamedTuple):
    """A container: what is in it, as PyTorch knows containers, and a copy with something else.

    `rest` are the attributes that the copy has too, and which are not in the content.
    """

    content: Any
    fill: Callable[[Any], Any]
    rest: Mapping[str, Any]


def _filling(
    fill: Callable[[Any], Any], close: Callable[[Sequence[Any]], Any]
) -> Callable[[Sequence[Any]], Any]:
    return lambda leaves: fill(close(leaves))


def _shells(item: Any) -> Iterator[_Shell]:
    """Ways to look into an object, the likeliest first."""
    kind: Any = type(item)
    held = vars_of(item)
    if isinstance(item, dict):  # of a class of its own
        both = {name for name in held if name in item}  # items that are attributes too
        rest = {name: value for name, value in held.items() if name not in both}
        yield _Shell(dict(item), lambda content: _as(kind, dict, content, rest, both), rest)
    elif isinstance(item, (list, tuple)):
        plain = tuple if isinstance(item, tuple) else list
        yield _Shell(list(item), lambda content: _as(kind, plain, content, held), dict(held))
    elif is_dataclass(item):
        names = [field.name for field in fields(item) if hasattr(item, field.name)]
        content = {each: getattr(item, each) for each in names}
        rest = {name: value for name, value in held.items() if name not in content}
        yield _Shell(content, lambda filled: _with_attributes(kind, rest, filled), rest)
    elif held:
        yield _Shell(dict(held), lambda filled: _with_attributes(kind, {}, filled), {})
    if isinstance(item, Mapping) and not isinstance(item, dict):  # its items are elsewhere
        yield _Shell(dict(item), lambda filled: filled, {})


def vars_of(item: Any) -> dict[str, Any]:
    """Its attributes, if it has a dictionary of them."""
    found = getattr(item, "__dict__", None)
    return found if isinstance(found, dict) else {}


def _as(
    kind: Any, plain: Any, content: Any, rest: Mapping[str, Any], both: Collection[str] = ()
) -> Any:
    """A container of a class with other items, made without its constructor."""
    if plain is tuple:
        made = tuple.__new__(kind, content)
    else:
        made = kind.__new__(kind)
        (dict.update if plain is dict else list.extend)(made, content)
    for name, value in {**rest, **{name: content[name] for name in both}}.items():
        object.__setattr__(made, name, value)
    return made


def _with_attributes(kind: Any, rest: Mapping[str, Any], content: Mapping[str, Any]) -> Any:
    """An object of a class with these attributes, made without its constructor."""
    try:
        made = object.__new__(kind)
    except TypeError:  # a class that is not made of attributes alone
        made = kind.__new__(kind)
    for name, value in {**rest, **content}.items():
        object.__setattr__(made, name, value)
    return made
