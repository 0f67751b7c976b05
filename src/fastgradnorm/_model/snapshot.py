"""All that a run of a model can reach, at one moment: to be compared with later, in little time.

`Appearance` says whether a model is worth verifying anew. Here more depends on the answer: what was
planned and traced is to stand for a run that is not made. So attributes of attributes are followed,
what functions close over, and what they name of the modules they were written in, import, or find
in an installed one, of which all else is taken to stay. Where something cannot be looked into, or
is read of the process, there is no snapshot. It keeps alive what it has seen.
"""

import enum
import functools
import logging
import operator
import re
import sys
import sysconfig
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from fastgradnorm_kernels.switches import global_hooks, has_version, writes
from torch import Tensor, nn
from torch.nn import functional as F

from fastgradnorm._model.code_names import globals_in, names_in
from fastgradnorm._model.glance import Mappings, are

# What is not changed itself, whatever holds it.
_ATOMS: tuple[type, ...] = (
    *(bool, bytes, complex, float, int, range, str, type(None), type(...)),
    *(enum.Enum, logging.Logger, np.dtype, np.generic, PurePath, re.Pattern),
    *(torch.device, torch.dtype, torch.layout, torch.memory_format, torch.Size),
    *(types.CodeType, types.GetSetDescriptorType, types.MemberDescriptorType),
    *(types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType),
)
# By which a function reads what nobody can foresee: the process, files, names that it makes.
_ELSEWHERE = frozenset(
    {"current_thread", "currentframe", "get_ident", "getcwd", "getenv", "import_module"}
    | {"read_bytes", "read_text"}
)
_BUILTINS = frozenset({"__import__", "eval", "exec", "globals", "open"})
_MOST = 1 << 14  # things that are looked at: more take longer than they spare
_NOTHING = object()


class NoSnapshotError(Exception):
    """Something cannot be looked into."""


class Snapshot:
    """What all of it looks like now.

    Args:
        roots: The model, and what else is called.

    Raises:
        NoSnapshotError: If not all of it can be looked into, or it is too much.
    """

    def __init__(self, *roots: Any) -> None:
        self._around = _around()
        self._tensors: list[tuple[Tensor, Any]] = []
        self._held: list[tuple[Callable[[], list[Any]], list[Any]]] = []
        self._objects: list[Any] = []  # of each: its class, which may be assigned, too
        self._attributes = Mappings(vars)
        self._mappings, self._empty = Mappings(), list[Any]()
        self._named: list[tuple[Mapping[str, Any], str, Any]] = []
        self._seen: dict[int, Any] = {}
        self._list(lambda: [*vars(F).values()])  # which are replaced for all layers at once
        waiting = deque(roots)
        while waiting:
            value = waiting.popleft()
            if isinstance(value, _ATOMS) or id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            if len(self._seen) + len(self._named) > _MOST:
                raise NoSnapshotError("it is too much")
            waiting.extend(self._look(value))
        self._kinds = [*map(type, self._objects)]

    def holds(self) -> bool:
        """Whether everything still is what it was."""
        return (
            self._around == _around()
            and not any(self._empty)
            and all(_state(tensor) == state for tensor, state in self._tensors)
            and all(map(operator.is_, map(type, self._objects), self._kinds))
            and self._attributes.hold()
            and self._mappings.hold()
            and all(are(now(), held) for now, held in self._held)
            and all(names.get(name, _NOTHING) is value for names, name, value in self._named)
        )

    def _look(self, value: Any) -> Iterator[Any]:
        """Notes what it holds, and yields that."""
        kind = type(value)
        if isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, types.ModuleType):
            if not _is_installed(getattr(value, "__file__", None), value.__name__):
                raise NoSnapshotError("which names of a module are read is not known")
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.MethodType):
            yield from (value.__self__, value.__func__)
        elif isinstance(value, (staticmethod, classmethod)):
            yield value.__func__
        elif isinstance(value, property):
            yield from (value.fget, value.fset, value.fdel)
        elif isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            yield from () if isinstance(value.__self__, types.ModuleType) else (value.__self__,)
        elif kind is weakref.ref:
            yield from self._list(lambda: [value()])
        elif kind is functools.partial:
            yield from (value.func, value.args, value.keywords)
        elif kind in (dict, list, OrderedDict, set) and not value:  # hooks, mostly
            self._empty.append(value)
        else:
            yield from self._object(value)

    def _object(self, value: Any) -> Iterator[Any]:
        kind: Any = type(value)
        inside = True
        if isinstance(value, Tensor):
            self._tensors.append((value, _state(value)))
        elif isinstance(value, dict):
            yield from self._mappings.add(value)
        elif isinstance(value, (tuple, frozenset)):
            yield from value  # which stay in it
        elif isinstance(value, (list, deque)):
            yield from self._list(lambda: [*value])
        elif isinstance(value, set):
            yield from self._list(lambda: sorted(value, key=id))
        else:
            inside = not _has_own_memory(kind)
        self._objects.append(value)
        yield kind
        slots = _slots(kind)
        if slots:
            yield from self._list(lambda: [getattr(value, name, _NOTHING) for name in slots])
        if isinstance(getattr(value, "__dict__", None), dict):
            yield from self._attributes.add(value)
        if not inside:
            raise NoSnapshotError(f"a {kind.__name__} has memory of its own")

    def _list(self, now: Callable[[], list[Any]]) -> list[Any]:
        held = now()
        self._held.append((now, held))
        return held

    def _class(self, kind: type) -> Iterator[Any]:
        yield type(kind)
        module = sys.modules.get(kind.__module__)
        ours = not _is_installed(getattr(module, "__file__", None), kind.__module__)
        if ours or issubclass(kind, nn.Module):  # those are patched, whosever they are
            held = self._list(lambda: [*kind.__bases__, *vars(kind).values()])
            if ours:
                # But what abstract classes know of their subclasses.
                yield from (
                    v for v in vars(kind).values() if type(v).__module__.strip("_") != "abc"
                )
            yield from held[: len(kind.__bases__)]

    def _function(self, function: types.FunctionType) -> Iterator[Any]:
        code, names = function.__code__, function.__globals__

        def own() -> list[Any]:
            return [function.__code__, function.__defaults__, function.__kwdefaults__]

        yield from self._list(own)[1:]
        if _is_installed(code.co_filename, function.__module__ or ""):
            return
        cells = function.__closure__ or ()
        yield from self._list(lambda: [_content(cell) for cell in cells])
        yield from self._list(lambda: [*vars(function).values()])
        read, loaded = set(names_in(code)), globals_in(code)
        if read & _ELSEWHERE or loaded & _BUILTINS - names.keys():
            raise NoSnapshotError("what a function reads elsewhere is not known")
        package = str(names.get("__package__") or "").split(".")
        places = [".".join(package[:i]) + "." for i in range(1, len(package) + 1)]
        for name in read:
            of_module = name in loaded  # not an attribute that is called as a global is
            if of_module:
                yield from self._name(names, name, read)
            found = of_module and name in names
            for each in () if found else (name, *(place + name for place in places)):
                if each in sys.modules:  # as it is imported by the function itself
                    yield from self._name(sys.modules, each, read)

    def _name(self, names: Mapping[str, Any], name: str, read: set[str]) -> Iterator[Any]:
        value = names.get(name, _NOTHING)
        self._named.append((names, name, value))
        if not isinstance(value, types.ModuleType):
            yield value
            return
        stays = _is_installed(getattr(value, "__file__", None), value.__name__)
        if not stays and id(value) not in self._seen:  # others may read it by other names
            self._list(lambda: [*vars(value).values()])
        for each in (read - {name}) & vars(value).keys():  # as far as one function reads it
            found = vars(value)[each]
            if stays:
                self._named.append((vars(value), each, found))
            if not stays or not (callable(found) or isinstance(found, types.ModuleType)):
                yield found


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that has no value yet
        return _NOTHING


def _state(tensor: Tensor) -> Any:
    """Where its values are, how often they were written, and what is asked of them."""
    if not has_version():
        raise NoSnapshotError("writes are not counted")
    try:
        found = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.requires_grad
        return *found, tensor.dtype, writes(tensor)
    except (RuntimeError, NotImplementedError) as error:  # of subclasses, and sparse ones
        raise NoSnapshotError("a tensor has no memory that can be told") from error


def _around() -> Any:
    """What PyTorch is told beside models."""
    cast = [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")]
    switches = torch.get_deterministic_debug_mode(), torch.get_float32_matmul_precision()
    default = torch.get_default_dtype(), torch.get_default_device()
    return default, cast, switches, torch.get_num_threads(), global_hooks()


@functools.cache
def _slots(kind: type) -> tuple[str, ...]:
    found: list[str] = []
    for each in kind.__mro__:
        given = vars(each).get("__slots__", ())
        names = [given] if isinstance(given, str) else [*given]
        private = [name.startswith("__") and not name.endswith("__") for name in names]
        prefix = f"_{each.__name__.lstrip('_')}"
        found += [prefix * hidden + name for name, hidden in zip(names, private, strict=True)]
    return tuple(name for name in found if name not in ("__dict__", "__weakref__"))


@functools.cache
def _has_own_memory(kind: type) -> bool:
    """Whether something is kept where nobody sees it, as by classes that are written in C."""
    for each in kind.__mro__:
        made = each in (object, types.SimpleNamespace)
        if not made and isinstance(vars(each).get("__new__"), types.BuiltinFunctionType):
            return True
    # Of Python's own classes those without a dictionary say what they have instead.
    told = ("__dict__", "__slots__")
    return kind is not object and not any(n in vars(each) for each in kind.__mro__ for n in told)


@functools.cache
def _folders() -> tuple[str, ...]:
    found = sysconfig.get_paths()
    return *(found[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")), "<frozen"


@functools.cache
def _is_installed(file: str | None, name: str) -> bool:
    """Whether what is written there stays as it is while a program runs."""
    top = name.partition(".")[0]
    ours = top in ("torch", "fastgradnorm", "fastgradnorm_kernels")
    return ours or top in sys.stdlib_module_names or (file or "").startswith(_folders())
