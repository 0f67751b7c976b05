"""A throw-away copy of a module tree: other tensors in it, and nothing of the caller's to change.

Models store things on themselves while running: rotary tables, attention-bias caches, activations
for later. A copy made for each forward pass takes these with it when it goes. Modules are copied
with their attribute dictionaries and the plain containers in them; tensors are shared or replaced,
never copied.
"""

import functools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

from torch import Tensor, nn

from fastgradnorm._model.modes import staying_in_training

_ATOMS = frozenset({bool, bytes, float, int, str, type(None)})
_MAPPINGS = frozenset({dict, OrderedDict})
_CONTAINER_DEPTH = 4  # of lists in dicts in lists; deeper ones are shared with the original


class Mold:
    """What copies of one module tree have in common, looked at once.

    Args:
        model: The original; not changed.

    Attributes:
        training: Modules, by `id`, that the model's own `eval()` leaves in training mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._casts: dict[int, _Cast] = {}
        for module in model.modules():
            self._casts[id(module)] = _Cast.of(module)
        self.training = staying_in_training(model, lambda tensors: self._copied(tensors).done)
        for key in self.training:
            self._casts[key].shared["training"] = True

    def cast(self, tensors: Mapping[int, Tensor]) -> nn.Module:
        """A copy of the tree in eval mode, with `tensors[id(t)]` for each tensor t of the original.

        Args:
            tensors: Replacements of parameters, buffers and other tensor attributes, by `id`.
        """
        return self._copied(tensors).done[id(self._model)]

    def _copied(self, tensors: Mapping[int, Tensor]) -> "_Copier":
        copier = _Copier(tensors, self._casts)
        copier.module(self._model)
        return copier


@dataclass
class _Cast:
    """How the attributes of one module are copied.

    Attributes:
        shared: Those that copies share.
        empty: Empty containers, hooks mostly, of which each copy has its own.
        others: Those to be copied anew.
    """

    shared: dict[str, Any]
    empty: list[tuple[str, type]]
    others: list[tuple[str, Any]]

    @classmethod
    def of(cls, module: nn.Module) -> "_Cast":
        found = cls({}, [], [])
        for name, value in module.__dict__.items():
            if type(value) in _ATOMS:
                found.shared[name] = value
            elif type(value) in _MAPPINGS and not value:
                found.empty.append((name, type(value)))
            else:
                found.others.append((name, value))
        found.shared["training"] = False
        if isinstance(module, nn.RNNBase):
            # On a GPU it would put the weights next to each other in memory, which transforms'
            # tensors have none of; the layer is unrolled, and needs it not.
            found.shared["flatten_parameters"] = _nothing
        return found


def _nothing() -> None:
    """Stands for a method that only tidies up."""


class _Copier:
    def __init__(self, tensors: Mapping[int, Tensor], casts: Mapping[int, _Cast]) -> None:
        self.tensors, self.casts = tensors, casts
        self.done: dict[int, nn.Module] = {}

    def module(self, original: nn.Module) -> nn.Module:
        if id(original) in self.done:
            return self.done[id(original)]
        copy: nn.Module = object.__new__(type(original))
        self.done[id(original)] = copy
        cast = self.casts.get(id(original)) or _Cast.of(original)
        attributes = copy.__dict__
        attributes.update(cast.shared)
        for name, kind in cast.empty:
            attributes[name] = kind()
        for name, value in cast.others:
            attributes[name] = self.value(value, _CONTAINER_DEPTH)
        return copy

    def value(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind in _MAPPINGS and not value:  # hooks, mostly
            return kind()
        if isinstance(value, Tensor):
            return self.tensors.get(id(value), value)
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
            return MethodType(value.__func__, self.module(value.__self__))
        if depth == 0:
            return value
        return self.container(value, depth - 1)

    def container(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in (list, tuple, set):
            return kind(self.value(v, depth) for v in value)
        if kind is deque:  # of what was seen last, mostly
            return deque((self.value(v, depth) for v in value), value.maxlen)
        if kind in (dict, OrderedDict, defaultdict):
            copy = value.copy()
            for key, v in value.items():
                copy[key] = self.value(v, depth)
                if isinstance(v, Tensor) and v.grad_fn is not None:
                    del copy[key]  # a cache filled by an earlier call, to be filled anew
            return copy
        if kind is functools.partial:
            args = [self.value(v, depth) for v in value.args]
            keywords = {key: self.value(v, depth) for key, v in value.keywords.items()}
            return functools.partial(self.value(value.func, depth), *args, **keywords)
        return value


def tensor_attributes(model: nn.Module) -> dict[int, Tensor]:
    """Every tensor but parameters that a shadow would share: buffers, caches, lists of tensors.

    But those on the meta device: they have no values that could change.
    """
    found: dict[int, Tensor] = {}

    def visit(value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            if not (isinstance(value, nn.Parameter) or value.is_meta):
                found[id(value)] = value
        elif depth > 0 and isinstance(value, Mapping):
            for v in value.values():
                visit(v, depth - 1)
        elif depth > 0 and type(value) in (list, tuple, set, deque):
            for v in value:
                visit(v, depth - 1)

    for module in model.modules():
        visit(module.__dict__, _CONTAINER_DEPTH + 1)
    return found
