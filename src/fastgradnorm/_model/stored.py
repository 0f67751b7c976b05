"""What models store on themselves while they run, where a loss reads it by itself.

Passes run on copies of a module tree, and what a model stores then (features, the loss of a router
or of a code book) is the copy's. A loss that a function closes over the caller's model reads it
there: of an earlier call, or in vain. So while such a loss runs, the caller's modules have what the
copy has; afterwards they have what they had. So have modules beside the model, as a teacher, and a
loss that keeps something: it begins anew with each run. Other objects are not left with wrappers of
transforms that have ended.
"""

import functools
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from inspect import getattr_static
from types import FunctionType, MethodType, ModuleType
from typing import Any

from fastgradnorm_kernels.functorch import is_wrapped
from torch import Tensor, nn

from fastgradnorm._model.code_names import is_of_packages, names_in
from fastgradnorm._model.held import Held
from fastgradnorm._model.marks import marked
from fastgradnorm._process import models_in_use

# Whose functions and objects hold no module of the caller's.
_OTHERS = frozenset(
    {"fastgradnorm", "fastgradnorm_kernels", "lightning", "numpy", "pytorch_lightning", "torch"}
    | {"transformers"}
)
_EVERY = frozenset(vars(nn.Module()))  # attributes that every module has
_ATOMS = (bool, bytes, complex, float, int, str, type(None))
_MOST = 1000  # things that are looked at, and elements of one container
_LARGEST = 1 << 24  # numbers of a tensor that is copied
_DEPTH = 4  # of lists in dicts in lists


class Stored:
    """Modules that functions of the caller's reach, and what is stored on them.

    Args:
        model: The caller's.
        functions: What is called with it, or with what it returns: the loss, and `forward`.
    """

    def __init__(self, model: nn.Module, functions: Iterable[Any]) -> None:
        found = {id(each): each for each in _reached(functions) if not isinstance(each, Tensor)}
        own = {id(module) for module in model.modules()}
        self._model, self._reaches = model, not own.isdisjoint(found)
        # Not to be kept alive by what may be kept between calls, as the model's own are not.
        self._beside = [*_refs(each for key, each in found.items() if key not in own)]

    @contextmanager
    def as_in(self, view: nn.Module) -> Iterator[None]:
        """While a loss runs on what a model returned: the caller's has what that stored.

        Args:
            view: The model, a copy of the caller's or itself.
        """
        if not self._reaches or view is self._model:
            yield
            return
        with self._put_back():
            copies = dict(view.named_modules())
            for path, module in self._model.named_modules():
                if path in copies:
                    _lend(module, copies[path])
            yield

    @contextmanager
    def kept(self, view: nn.Module) -> Iterator[None]:
        """While a model runs: what is called of the caller's modules leaves nothing behind.

        While a copy does, the model's own are in its mode. Modules beside the model keep what every
        module has, such as weights that are cast, and other objects what is of no transform.

        Args:
            view: What runs, a copy of the caller's model or itself, which is put back elsewhere.
        """
        reaches = self._reaches and view is not self._model
        if not (reaches or self._beside):
            yield
            return
        beside = [each for each in (ref() for ref in self._beside) if each is not None]
        # Of those that are scripted nothing can be put elsewhere.
        modules = [m for m in beside if isinstance(getattr(m, "_buffers", None), dict)]
        own = Held([*(m.__dict__ for m in modules), *(m._buffers for m in modules)], False, _MOST)
        others = [each.__dict__ for each in beside if not isinstance(each, nn.Module)]
        every = [(attributes, Held([attributes], True, _MOST)) for attributes in others]
        with self._put_back() if reaches else nullcontext():
            if reaches:
                copies = dict(view.named_modules())
                for path, module in self._model.named_modules():
                    module.training = getattr(copies.get(path), "training", False)
            try:
                for module in modules:
                    _copy_tensors(module)
                yield
            finally:
                for attributes, held in every:
                    if _is_of_transform(attributes, _DEPTH + 1):
                        held.put_back()
                own.put_back()

    @contextmanager
    def _put_back(self) -> Iterator[None]:
        """What the model's own modules hold is what it was, after."""
        with models_in_use:  # so that no other thread makes a copy meanwhile
            modules = [*self._model.modules()]
            own = [m.__dict__ for m in modules]
            held = Held([*own, *(m._buffers for m in modules if m._buffers)], False, _MOST)
            modes = [module.training for module in modules]
            try:
                yield
            finally:
                held.put_back()
                for module, mode in zip(modules, modes, strict=True):
                    module.training = mode


def _refs(things: Iterable[Any]) -> Iterator[weakref.ref[Any]]:
    for each in things:
        with suppress(TypeError):  # of a class that has none
            yield weakref.ref(each)


def _copy_tensors(module: nn.Module) -> None:
    """Puts copies in the place of buffers, and of attributes, that a module may write to.

    Those of PyTorch's do not in eval mode.
    """
    if _is_other(type(module)) and not module.training:
        return
    for held in (module.__dict__, module._buffers):
        for name, value in held.items():
            if not isinstance(value, Tensor) or value.requires_grad or value.is_meta:
                continue
            if not isinstance(value, nn.Parameter) and value.numel() <= _LARGEST:
                held[name] = marked(value.clone(), value)


def _lend(module: nn.Module, copy: nn.Module) -> None:
    """Attributes and buffers of a copy, for as long as `Held` has those of the module's own."""
    for name, value in copy.__dict__.items():
        if name not in _EVERY and module.__dict__.get(name) is not value:
            module.__dict__[name] = value
    for name, value in copy._buffers.items():
        if name in module._buffers:
            module._buffers[name] = value


def _is_of_transform(value: Any, depth: int) -> bool:
    if isinstance(value, Tensor):
        return is_wrapped(value)
    if depth == 0 or not isinstance(value, (Mapping, list, tuple, set, deque)):
        return False
    if len(value) > _MOST:
        return False
    inside = value.values() if isinstance(value, Mapping) else value
    return any(_is_of_transform(each, depth - 1) for each in inside)


def reaches(model: nn.Module, functions: Iterable[Any]) -> bool:
    """Whether functions reach modules, parameters or buffers of a model by themselves."""
    own = {id(each) for each in (*model.modules(), *model.parameters(), *model.buffers())}
    return any(id(each) in own for each in _reached(functions))


def _reached(functions: Iterable[Any]) -> Iterator[Any]:
    """Modules, tensors and objects that functions close over, are given beforehand, or name.

    And those in them.

    Each once; what cannot be looked into, or is far away, is left out.
    """
    seen: dict[int, Any] = {}
    waiting = deque(functions)
    while waiting and len(seen) < _MOST:
        value = waiting.popleft()
        if id(value) in seen:
            continue
        try:
            if isinstance(value, _ATOMS):
                continue
            counts = isinstance(value, (nn.Module, Tensor)) or _is_object(value)
            inside = _inside(value)
        except Exception:  # of one that stands for another, which is not there
            continue
        seen[id(value)] = value
        if counts:
            yield value
        waiting.extend(inside)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Tensor):
        return []
    if isinstance(value, FunctionType):
        return [] if _is_other(value) else [*_read(value)]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, dict):  # others may read files for what is in them
        return [*value.values()] if len(value) <= _MOST else []
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return [*value] if len(value) <= _MOST else []
    if isinstance(value, nn.Module):
        own = [v for name, v in vars(value).items() if name not in _EVERY]
        return [*own, *value.children(), getattr_static(type(value), "forward", None)]
    if isinstance(value, (type, ModuleType)) or _is_other(type(value)):
        return []
    call = type(value).__dict__.get("__call__")
    return [*getattr(value, "__dict__", {}).values(), call]


def _is_object(value: Any) -> bool:
    """Whether it is one of the caller's own that has attributes, and is no function."""
    if isinstance(value, (type, ModuleType, FunctionType, MethodType)) or _is_other(type(value)):
        return False
    return isinstance(getattr(value, "__dict__", None), dict)


def _read(function: FunctionType) -> Iterator[Any]:
    """What a function closes over, has as defaults, and finds by names of its module."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # of a name that is still to be assigned
            continue
    names = set(names_in(function.__code__))
    for name in names & function.__globals__.keys():
        found = function.__globals__[name]
        yield found
        if isinstance(found, ModuleType) and not _is_other(found):
            yield from (vars(found)[each] for each in names & vars(found).keys())


def _is_other(thing: Any) -> bool:
    """Whether a function, class or module of code is none of the caller's."""
    return is_of_packages(thing, _OTHERS)
