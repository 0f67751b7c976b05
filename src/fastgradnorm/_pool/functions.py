"""What a function is, in a few bytes: its source, and all that it reads from outside of it.

The same source may do something else with another base function in its closure, another setting of
the object it belongs to, another global. What a function writes to itself, as a counter of its
calls, is none of it: a run that goes on would find another one.
"""

import contextlib
import dis
import functools
import hashlib
import inspect
import itertools
import re
from argparse import Namespace
from collections.abc import Callable, Collection, Iterable, Iterator
from enum import Enum
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastgradnorm._model import globals_in, is_of_packages, names_in

_DEPTH = 6  # of things that hold others
_MOST = 1000  # elements of one container: longer ones are vocabularies, or data
_FEW = 1 << 16  # elements of a tensor that are looked at in any case
_MANY = 1 << 24  # of longer ones so many, all over them: they may be a pool, in a file
_LINES = 100_000  # of one function
_OTHERS = frozenset({"fastgradnorm", "lightning", "numpy", "pytorch_lightning", "torch"})
_ATOMS = (str, bytes, bool, int, float, complex, type(None), torch.dtype, torch.device, np.generic)
_OF_MODULES = frozenset(nn.Module().__dict__)
_STORED = ("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR")
_FILLED = (dict, list, set)
# Python's own: others may read what they hold from files.
_HOLDERS = (dict, MappingProxyType, list, tuple, set, frozenset)
# Methods by which what is written to is a container that someone else made.
_WRITING = frozenset({"append", "extend", "insert", "pop", "update", "setdefault", "add", "clear"})
_PLAIN_OBJECTS = (SimpleNamespace, Namespace)
_CALLED = (FunctionType, MethodType, BuiltinFunctionType, functools.partial)
_WRAPPED = ("_torchdynamo_orig_callable", "__wrapped__")


def code_of(
    function: Any, model: nn.Module, digest: Callable[[Iterable[Tensor]], str], whole: bool
) -> str:
    """A digest of a function, an object that is called, or a module.

    Args:
        function: Of the caller's.
        model: That is known by other means, and left out where a function holds it.
        digest: Of tensors.
        whole: Whether the numbers of large tensors count too.
    """
    lines = itertools.islice(_Walk(model, digest, whole).lines(function, _DEPTH), _LINES)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def settings_of(model: nn.Module, digest: Callable[[Iterable[Tensor]], str]) -> Iterator[str]:
    """Numbers with a fraction and functions that modules hold: what layers do not print.

    Not what their methods write, nor what is counted, named or switched on in training: a model
    that is made anew from a file has others of these.
    """
    walk = _Walk(model, digest, whole=True)
    for path, module in model.named_modules():
        for name in sorted(vars(module).keys() - _OF_MODULES - walk.written_by(type(module))[0]):
            value = vars(module)[name]
            of = value if isinstance(value, tuple) else (value,)
            plain = name[:1] != "_" and all(isinstance(each, (float, int)) for each in of)
            fraction = plain and any(isinstance(each, float) for each in of)
            if fraction or (name[:1] != "_" and isinstance(value, _CALLED)):
                yield f"{path}.{name}"
                yield from walk.lines(value, _DEPTH)


class _Walk:
    """Of one function, through all that it holds, each once."""

    def __init__(
        self, model: nn.Module, digest: Callable[[Iterable[Tensor]], str], whole: bool
    ) -> None:
        self._known = {id(each) for each in model.modules()}
        self._digest, self._whole = digest, whole
        self._seen: dict[tuple[int, ...], Any] = {}
        self._classes: dict[type, tuple[frozenset[str], bool]] = {}

    def lines(self, thing: Any, depth: int) -> Iterator[str]:
        """One for each thing that makes it what it is."""
        if isinstance(thing, (Enum, *_ATOMS)):
            yield repr(thing)
        elif isinstance(thing, (Tensor, np.ndarray)):
            yield self._numbers(thing)
        elif depth == 0 or not self._is_new(thing):
            yield type(thing).__qualname__
        elif isinstance(thing, _HOLDERS):
            yield from self._elements(thing, depth)
        elif isinstance(thing, nn.Module):
            yield from self._module(thing, depth)
        elif isinstance(thing, functools.partial):
            yield from self.lines((thing.func, thing.args, thing.keywords), depth)
        elif isinstance(thing, MethodType):
            yield from self.lines(thing.__func__, depth)
            yield from self.lines(thing.__self__, depth)
        elif isinstance(thing, torch.jit.ScriptFunction):
            yield str(thing.code)
        elif hasattr(thing, "__qualname__") or isinstance(thing, ModuleType):
            yield from self._function(thing, depth)
        else:
            yield from self._object(thing, depth)

    def _elements(self, held: Any, depth: int) -> Iterator[str]:
        yield f"{type(held).__name__} of {len(held)}"
        if len(held) > _MOST:
            return
        if isinstance(held, (set, frozenset)):
            yield from sorted(repr(each) for each in held if isinstance(each, _ATOMS))
            return
        mapping = isinstance(held, (dict, MappingProxyType))
        for key, value in held.items() if mapping else enumerate(held):
            yield f"[{key!r}]" if isinstance(key, _ATOMS) else type(key).__name__
            yield from self.lines(value, depth - 1)

    def written_by(self, kind: type) -> tuple[frozenset[str], bool]:
        """As of the function below."""
        if kind not in self._classes:
            self._classes[kind] = _written_by(kind)
        return self._classes[kind]

    def _module(self, module: nn.Module, depth: int) -> Iterator[str]:
        if id(module) in self._known:
            yield "the model"
            return
        inner = getattr(module, "_orig_mod", None)
        if inner is not None and is_of_packages(type(module), _OTHERS):  # of one that was compiled
            yield from self.lines(inner, depth)
            return
        yield re.sub(r" at 0x[0-9a-f]+", "", repr(module))
        for name, each in module.named_modules():
            if id(each) in self._known:
                continue
            scripted = isinstance(each, torch.jit.ScriptModule) and hasattr(each, "code")
            yield f"{name} {type(each).__qualname__} {each.code if scripted else ''}"
            for held in (each._parameters, each._buffers):
                yield from (f"{k} {self._numbers(v)}" for k, v in held.items() if v is not None)
            yield from self._attributes(each, depth)
            yield from self._methods(type(each), depth)

    def _object(self, thing: Any, depth: int) -> Iterator[str]:
        yield f"{type(thing).__module__}.{type(thing).__qualname__}"
        if isinstance(thing, _PLAIN_OBJECTS) or not is_of_packages(type(thing), _OTHERS):
            yield from self._attributes(thing, depth)
            yield from self._methods(type(thing), depth)

    def _attributes(self, thing: Any, depth: int) -> Iterator[str]:
        """Settings of an object, of what it does not write itself when it is called."""
        own, fills = self.written_by(type(thing))
        own |= _OF_MODULES if isinstance(thing, nn.Module) else frozenset()
        slots = [getattr(kind, "__slots__", ()) for kind in type(thing).__mro__]
        slotted = [name for kind in slots for name in ([kind] if isinstance(kind, str) else kind)]
        for name in (*getattr(thing, "__dict__", ()), *slotted):
            value = None if name in own else getattr(thing, name, None)
            if value is not None and not (fills and isinstance(value, _FILLED)):
                yield f".{name}"
                yield from self.lines(value, depth - 1)

    def _methods(self, kind: type, depth: int) -> Iterator[str]:
        """Of the caller's own class: what it does where it is called."""
        for name in ("__call__", "forward"):
            function = getattr(kind, name, None)
            if isinstance(function, FunctionType):
                yield from self.lines(function, depth - 1)

    def _function(self, thing: Any, depth: int) -> Iterator[str]:
        others = not isinstance(thing, FunctionType) or is_of_packages(thing, _OTHERS)
        for name in _WRAPPED if others else ():
            if (inner := getattr(thing, name, None)) is not None:  # of what is compiled, or cached
                yield from self.lines(inner, depth)
                return
        yield str(getattr(thing, "__qualname__", getattr(thing, "__name__", type(thing))))
        if others:
            return
        code = thing.__code__
        yield _source(code)
        for each in _within(code):
            yield from (repr(value) for value in each.co_consts if isinstance(value, _ATOMS))
            yield from each.co_names
        given = *(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).items()
        yield from self.lines(given, depth)
        for name, value in _read(thing):
            yield f"{name}="
            if isinstance(value, (ModuleType, type)):
                yield from self._of_space(value, code, depth)
            else:
                yield from self.lines(value, depth - 1)

    def _of_space(self, space: Any, code: CodeType, depth: int) -> Iterator[str]:
        """What code reads of a module of code or a class of the caller's."""
        if is_of_packages(space, _OTHERS):
            return
        for name in sorted({*names_in(code)} & vars(space).keys()):
            yield f".{name}"
            yield from self.lines(vars(space)[name], depth - 1)

    def _numbers(self, values: Any) -> str:
        if isinstance(values, np.ndarray):
            told = f"{values.dtype} {values.shape}"
            if values.dtype.kind not in "biufc" or not (self._whole or values.size <= _FEW):
                return told
            some = values.reshape(-1)[:: 1 + values.size // _MANY]
            return told + hashlib.sha256(some.tobytes()).hexdigest()
        if values.is_nested:
            return f"nested {values.dtype}"
        told = f"{values.dtype} {list(values.shape)}"
        if values.layout != torch.strided and not values.is_meta:
            values = values.detach().to_dense()
        if not (self._whole or values.numel() <= _FEW):
            return told
        some = values if values.numel() <= _MANY else values.reshape(-1)[:: values.numel() // _MANY]
        return told + self._digest([some])

    def _is_new(self, thing: Any) -> bool:
        key: tuple[int, ...] = (id(thing),)
        if isinstance(thing, FunctionType) and thing.__closure__:
            key = id(thing.__code__), *map(id, thing.__closure__)
        new = key not in self._seen
        self._seen[key] = thing  # kept, so that no `id` is used again
        return new


def _source(code: CodeType) -> str:
    with contextlib.suppress(OSError, TypeError):
        found = inspect.getsource(code)
        if code.co_name != "<lambda>" or found.count("lambda") == 1:
            return found  # else that line does not tell which of them it is
    return " ".join(each.co_code.hex() for each in _within(code))


def _read(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What it reads by name of closures and globals, and does not write itself."""
    code, found = function.__code__, dict[str, Any]()
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # of a name that is still to be assigned
            found[name] = cell.cell_contents
    space = function.__globals__
    found |= {name: space[name] for name in sorted(globals_in(code) & space.keys())}
    own = {*_told(code, _STORED)}
    fills = _fills(code)
    for name, value in found.items():
        if name not in own and not (fills and isinstance(value, _FILLED)):
            yield name, value


def _within(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _within(each)


def _told(code: CodeType, kinds: Collection[str]) -> Iterator[str]:
    """What instructions of some kinds are told, such as the names they read or write."""
    for each in _within(code):
        for step in dis.get_instructions(each):
            if step.opname in kinds:
                yield str(step.argval)


def _fills(code: CodeType) -> bool:
    """Whether it writes into containers that others made."""
    by_name = not _WRITING.isdisjoint(names_in(code))
    return by_name or any(True for _ in _told(code, ("STORE_SUBSCR",)))


def _written_by(kind: type) -> tuple[frozenset[str], bool]:
    """Attributes that methods of the caller's classes write, and whether they fill containers.

    But those methods that make an object.
    """
    held = [vars(each) for each in kind.__mro__ if not is_of_packages(each, _OTHERS)]
    codes = [
        value.__code__
        for each in held
        for name, value in each.items()
        if isinstance(value, FunctionType) and name not in ("__init__", "__post_init__")
    ]
    names = frozenset(name for code in codes for name in _told(code, _STORED))
    return names, any(map(_fills, codes))
