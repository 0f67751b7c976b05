"""What a model reads beside the attributes of its modules, to be looked at again.

Settings stand in many places: in a mapping or list of a module, in an object or array that it
holds, in its class, in a global name or a closure of its functions. Copies of the module tree share
most of these with the caller's, and a pass that is replayed has taken in what they were.
"""

import functools
from argparse import Namespace
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor, nn

from fastgradnorm._model.beside_classes import (
    found,
    is_in_base,
    is_other,
    names_of,
    own_bases,
    spaces,
)
from fastgradnorm._model.code_names import names_in
from fastgradnorm._model.generators import is_generator
from fastgradnorm._model.plain_values import GONE, differ, is_memory, is_setting

_DEPTH = 3  # of settings in settings
_FUNCTIONS = 6  # that call functions
_MOST = 1000  # elements of one container: longer ones are vocabularies, or data
_ARRAY = 1 << 14  # elements of an array that are compared
_PLAIN_OBJECTS = (SimpleNamespace, Namespace)
_ATOMS = (bool, float, int, str, bytes, type(None))
_NO_OBJECTS = (nn.Module, Tensor, type, ModuleType, FunctionType, MethodType)


@dataclass(frozen=True)
class _Place:
    """Where a setting stands.

    Attributes:
        told: Its name, in words.
        look: What stands there now.
        before: What stood there.
    """

    told: str
    look: Callable[[], Any]
    before: Any


class Beside:
    """What stands there at this moment, of one model.

    Attributes:
        generators: Of random numbers, by `id`, each with what the caller calls it.
    """

    def __init__(self) -> None:
        self.generators: dict[int, tuple[str, Any]] = {}
        self._places: dict[tuple[int, Any], _Place] = {}
        self._seen: dict[tuple[int, ...], Any] = {}
        self._holders: dict[int, Any] = {}
        self._names = {"forward", "__call__"}  # that what runs uses, of attributes and globals

    def other(self) -> str | None:
        """The name of something that is another one."""
        for place in self._places.values():
            if differ(place.look(), place.before):
                return place.told
        return None

    def settle(self) -> None:
        """What is another one by now was changed by the model itself, and is looked at no more."""
        places = self._places.items()
        self._places = {k: p for k, p in places if not differ(p.look(), p.before)}

    def add_value(self, name: str, value: Any, private: bool = False, depth: int = _DEPTH) -> None:
        """What is in a setting that can be changed without another in its place.

        Args:
            name: Its own, as the caller would write it.
            value: Itself.
            private: Whether no one but the model is to write to it.
            depth: Of settings within settings.
        """
        if is_generator(value):
            self.generators.setdefault(id(value), (name, value))
        elif isinstance(value, np.ndarray):
            self._add(value, "", f"`{name}`", functools.partial(_numbers, value))
        elif depth == 0 or isinstance(value, _ATOMS) or not self._is_new(value):
            return
        elif isinstance(value, (Mapping, list, tuple)):
            self._add_elements(name, value, private, depth)
        elif isinstance(value, (set, frozenset)) and len(value) <= _MOST:
            self._add(value, "", f"`{name}`", functools.partial(frozenset, value))
        elif _is_object(value):
            look = functools.partial(found, spaces(value))
            for key in names_of(value):
                inner, told = look(key), (f"{name}.{key}", key[:1] == "_")
                if not private:
                    self._add_inner(value, key, look, *told, depth)
                elif is_generator(inner):
                    self.add_value(told[0], inner)

    def _add_elements(self, name: str, value: Any, private: bool, depth: int) -> None:
        if len(value) > _MOST or (isinstance(value, tuple) and is_setting(value, False)):
            return  # a tuple of settings is one itself
        look = value.get if isinstance(value, Mapping) else functools.partial(_at, value)
        for key in list(value) if isinstance(value, Mapping) else range(len(value)):
            self._add_inner(value, key, look, f"{name}[{key!r}]", private, depth)
        if isinstance(value, list) and value and all(type(v) in (str, bool, int) for v in value):
            self._add(value, "", f"`{name}`", functools.partial(len, value))  # of what takes part

    def _add_inner(
        self,
        holder: Any,
        key: Any,
        look: Callable[..., Any],
        name: str,
        private: bool,
        depth: int,
    ) -> None:
        value = look(key, GONE)
        if is_setting(value, private) and not is_memory(value):
            self._add(holder, key, f"`{name}`", functools.partial(look, key, GONE))
        self.add_value(name, value, private, depth - 1)

    def add_classes(self, kinds: Collection[type]) -> None:
        """What classes of modules say of them that is read while these run, once all else is added.

        Methods are looked at whose names are in what runs, from `forward` on.
        """
        members = [
            (each, name, value)
            for each in dict.fromkeys(chain.from_iterable(map(own_bases, kinds)))
            for name, value in list(vars(each).items())
        ]
        count = 0
        while count < len(self._names):  # methods that call others add their names
            count = len(self._names)
            for each, name, value in members:
                if name in self._names and (id(each), name) not in self._places:
                    self._add_member(each, name, value)
        inherited = {(kind, name) for kind in kinds for _, name, _ in members}
        for kind, name in sorted(inherited, key=str):  # which a class may get of its own
            if name in self._names and is_in_base(kind, name):
                look = functools.partial(found, spaces(kind), name)
                self._add(kind, name, f"`{kind.__name__}.{name}`", look)

    def _add_member(self, kind: type, name: str, value: Any) -> None:
        told, function = f"{kind.__name__}.{name}", _function(value)
        if function is not None or is_setting(value, False):
            look = functools.partial(vars(kind).get, name, GONE)
            self._add(kind, name, f"`{told}`", look)
        if function is not None:
            self.add_function(f"`{told}`", function)
        elif not is_other(kind):
            self.add_value(told, value)

    def add_function(self, reader: str, function: Any, depth: int = _FUNCTIONS) -> None:
        """What a function reads from outside of it, and what those read that it calls.

        Args:
            reader: Its name, in words.
            function: Itself, a method, or one with some arguments.
            depth: How many may call each other.
        """
        function = getattr(function, "__wrapped__", function)
        if isinstance(function, functools.partial):
            self.add_value(f"keywords of {reader}".replace("`", ""), function.keywords)
            self._add_generators(f"an argument of {reader}", function.args)
            function = function.func
        if _is_object(function):
            self.add_value(reader.replace("`", ""), function)
            function = type(function).__dict__.get("__call__")
        if isinstance(function, MethodType):
            owner, function = function.__self__, function.__func__
            if not isinstance(owner, (nn.Module, type)):
                self.add_value(f"{type(owner).__name__} of {reader}".replace("`", ""), owner)
        if not isinstance(function, FunctionType) or is_other(function) or depth == 0:
            return
        if not self._is_new(function.__code__, function.__closure__):
            return
        given = *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()
        self._add_generators(f"a default of {reader}", given)
        names = frozenset(names_in(function.__code__))
        self._names |= names
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for name, cell in cells.items():
            self._follow(reader, name, (cell, "", functools.partial(_content, cell)), names, depth)
        space = function.__globals__
        for name in sorted(names & space.keys()):
            look = functools.partial(space.get, name, GONE)
            self._follow(reader, name, (space, name, look), names, depth)

    def _follow(
        self,
        reader: str,
        name: str,
        where: tuple[Any, str, Callable[[], Any]],
        names: frozenset[str],
        depth: int,
    ) -> None:
        """Something that a function reads by name."""
        value = where[-1]()
        if value is GONE or isinstance(value, nn.Module):
            return
        if isinstance(value, (FunctionType, functools.partial, MethodType)):
            self._add(*where[:2], f"`{name}`, which {reader} calls,", where[-1])
            self.add_function(reader, value, depth - 1)
        elif isinstance(value, (ModuleType, type)) or _is_object(value):
            if isinstance(value, (ModuleType, type)) and is_other(value):
                return
            for inner in sorted(names & names_of(value).keys()):
                where = value, inner, functools.partial(found, spaces(value), inner)
                self._follow(reader, f"{name}.{inner}", where, frozenset(), depth - 1)
        else:
            if is_setting(value, False):
                self._add(*where[:2], f"`{name}`, which {reader} reads,", where[-1])
            self.add_value(name, value)

    def _add_generators(self, told: str, values: Iterable[Any]) -> None:
        for value in filter(is_generator, values):
            self.add_value(told.replace("`", ""), value)

    def _add(self, holder: Any, key: Any, told: str, look: Callable[[], Any]) -> None:
        """A setting that stands somewhere in a holder, which is kept: so no `id` is used again."""
        if (id(holder), key) not in self._places:
            self._holders[id(holder)] = holder
            self._places[id(holder), key] = _Place(told, look, look())

    def _is_new(self, *things: Any) -> bool:
        key = tuple(map(id, things))
        new = key not in self._seen
        self._seen[key] = things
        return new


def _function(value: Any) -> Any:
    """A method as it stands in a class, as a function; None if it is none."""
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    value = value.fget if isinstance(value, property) else value
    return value if isinstance(value, FunctionType) else None


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that is still to be assigned
        return GONE


def _at(values: Any, index: int, default: Any) -> Any:
    return values[index] if index < len(values) else default


def _numbers(array: np.ndarray[Any, Any]) -> Any:
    """Of an array; of a large one some all over it."""
    flat = array.reshape(-1) if array.flags.c_contiguous else array.ravel()
    some = flat[:: max(1, flat.size // _ARRAY)]
    return some.tolist() if array.dtype.hasobject else (array.shape, some.tobytes())


def _is_object(value: Any) -> bool:
    """Whether it is something of the caller's that has attributes."""
    if isinstance(value, _NO_OBJECTS) or not hasattr(value, "__dict__"):
        return False
    return type(value) in _PLAIN_OBJECTS or not is_other(type(value))
