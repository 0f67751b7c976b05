"""What stands for the caller's tensors while a model runs, and what the model may do to it.

Parameters share their memory with the caller's. A write to one is made on a copy, and the values
compared: what changes nothing is as good as not made, and anything else is refused. Assigning to
`.data`, as a module does that is cast or moved, is never carried out: PyTorch would put a wrapper
of the running transform into a tensor that outlives it. From then on another tensor stands in.

A gradient that is asked for of an input or a feature (as `gradient_checkpointing_enable` does by a
hook) changes no parameter's, and cannot be asked for under transforms: nothing is done.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from fastgradnorm_kernels.functorch import (
    current_level,
    in_memory,
    is_batched_anywhere,
    is_transforming,
)
from fastgradnorm_kernels.levels import outside
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastgradnorm._errors import UnsupportedModelError
from fastgradnorm._model import derivatives
from fastgradnorm._model.holdings import Holdings, address
from fastgradnorm._model.numbers_of import same
from fastgradnorm._operations import tensors_in

# fmt: off
IN_PLACE = frozenset({
    "__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__",
    "__ipow__", "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__",
})
# fmt: on
# What they change is not a value, but whether it counts.
_FLAGS = frozenset({"requires_grad_", "detach_"})


class StandIns:
    """Tensors to use for the caller's own, by `id`, in one run.

    Args:
        tensors: For each of the caller's tensors, by `id`, the one that stands in.
        holdings: Which of them are parameters.
    """

    def __init__(self, tensors: Mapping[int, Tensor], holdings: Holdings) -> None:
        self._for, self._holdings = dict(tensors), holdings
        self._kept = list(tensors.values())  # so that no `id` is used again
        self._first = tensors
        self._frozen: set[str] = set()
        self._level = current_level()

    @functools.cached_property
    def _names(self) -> dict[int, str]:
        """Names of parameters, by `id` of the caller's and of what stood in for it at first."""
        keys = self._holdings.keys
        return self._holdings.names | {id(self._first[key]): name for name, key in keys.items()}

    @functools.cached_property
    def _ours(self) -> frozenset[int]:
        return frozenset(id(tensor) for tensor in self._first.values())

    def stands_in(self, tensor: Tensor) -> bool:
        """Whether it is one that the model was given, not one that it has made."""
        return id(tensor) in self._ours or id(tensor) in self._for

    def swaps(self, ids: Iterable[int]) -> bool:
        """Whether there is a stand-in for any of the tensors with these `id`s."""
        return not self._for.keys().isdisjoint(ids)

    def spread(self, each: Callable[[Tensor], Tensor]) -> None:
        """From now on, what `each` makes of the tensors that the model was seen to write to."""
        for key in self._holdings.written & self._first.keys():
            self._replace(self._first[key], each(self._first[key]))

    def swap(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], tensors: Sequence[Tensor]
    ) -> tuple[Sequence[Any], Mapping[str, Any]] | None:
        """The arguments of a call with what stands in for its `tensors`; None if nothing does."""
        if not any(id(t) in self._for for t in tensors):
            return None
        return _swap(args, kwargs, self._for)

    def answer(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        mode: AbstractContextManager[Any],
    ) -> tuple[Any] | None:
        """What a call returns that is not carried out on a stand-in; None for any other call.

        Args:
            func: What is called.
            args: Its arguments as they are given.
            kwargs: Likewise.
            mode: What is to see a cast that stands in from now on.

        Raises:
            UnsupportedModelError: If it changes a parameter.
            OwnDerivativeError: If it takes a derivative that the transforms around would not see.
        """
        name = getattr(func, "__name__", "")
        if not is_looked_at(name) and kwargs.get("out") is None:  # as nearly all
            return None
        if name in derivatives.NAMES:
            if derivatives.takes_by_autograd(func, args, kwargs, self._level):
                self._holdings.differentiates = True
            return None
        if name == "__set__":
            return self._set(_attribute(func), args[0], args[1], mode)
        if name == "__get__":
            return self._get(_attribute(func), args[0])
        if name == "share_memory_":  # which moves what it is called on
            return (args[0],)
        written = _written(name, args, kwargs)
        if not written:
            return None
        names, memory = self._holdings.names, self._holdings.memory
        held = [t for t in written if id(t) in names or address(t) in memory]
        own = [t for t in held if id(t) in self._names]
        if not held or (name == "requires_grad_" and not own):
            # Of a parameter too, where the model itself takes a derivative by it: that is a wrapper
            # of its transform, or a tensor that it has detached.
            asks = name == "requires_grad_" and is_transforming()
            return (_as_allowed(func, *args, **kwargs),) if asks else None
        if name in _FLAGS:
            if not _turns_on(name, args, kwargs):
                self._freeze(held[0])
            return (held[0],)
        return self._changed_in_place(func, args, kwargs, held)

    def _name(self, tensor: Tensor) -> str:
        return self._holdings.names.get(id(tensor)) or self._holdings.memory[address(tensor)]

    def _get(self, attribute: str, target: Tensor) -> tuple[Any] | None:
        """What a model reads of a parameter: as the caller's is, whatever a pass differentiates."""
        name = self._names.get(id(target))
        if name is None:
            return None
        counts = name in self._holdings.trainable and name not in self._frozen
        # PyTorch warns of gradients of those that are no leaves.
        known = {"grad": None, "grad_fn": None, "is_leaf": True, "requires_grad": counts}
        return (known[attribute],) if attribute in known else None

    def _set(
        self, attribute: str, target: Tensor, value: Any, mode: AbstractContextManager[Any]
    ) -> tuple[Any] | None:
        """An assignment to an attribute of a tensor."""
        name = self._names.get(id(target))
        if attribute == "requires_grad" and name is not None:
            if not value:
                self._freeze(target)
            return (None,)
        if attribute == "requires_grad" and is_transforming():
            _as_allowed(target.requires_grad_, value)
            return (None,)
        if attribute != "data":
            return None
        now, value = self._for.get(id(target), target), self._for.get(id(value), value)
        if name is None and id(target) not in self._ours and now is not in_memory(now):
            return None  # PyTorch refuses what a transform has wrapped
        if name is None and now.requires_grad and not isinstance(target, nn.Parameter):
            return None  # but of a module beside the model, which is the caller's, too
        if name is None or name not in self._holdings.trainable:
            self._replace(target, value.detach())
        elif is_batched_anywhere(value) or not _same_but_cast(in_memory(now), in_memory(value)):
            raise _changed(name)
        elif (value.dtype, value.device) != (now.dtype, now.device):
            with torch.enable_grad(), mode:  # the gradient goes back through the cast
                self._replace(target, now.to(device=value.device, dtype=value.dtype))
        return (None,)

    def _freeze(self, target: Tensor) -> None:
        name = self._names.get(id(target))
        if name in self._holdings.trainable:
            self._frozen.add(name)
            self._replace(target, self._for.get(id(target), target).detach())

    def _replace(self, target: Tensor, tensor: Tensor) -> None:
        """From now on, `tensor` where `target` is used."""
        keys = [id(target)]
        name = self._names.get(id(target))
        if name is not None:
            key = self._holdings.keys[name]
            keys += [key, id(self._first[key])]
        self._for.update(dict.fromkeys(keys, tensor))
        self._kept += [target, tensor]

    def _changed_in_place(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        held: Sequence[Tensor],
    ) -> tuple[Any]:
        """A call that writes to parameters, made on copies of them."""
        if any(is_batched_anywhere(t) for t in tensors_in(args, kwargs)):
            raise _changed(self._name(held[0]))
        with outside(), torch.no_grad():
            now = {id(t): in_memory(self._for.get(id(t), t)) for t in held}
            copies = {id(t): now[id(t)].clone() for t in held}
            args, kwargs = _swap(args, kwargs, {**self._for, **copies})
            given = pytree.tree_map_only(Tensor, in_memory, (tuple(args), dict(kwargs)))
            output = func(*given[0], **given[1])
            altered = [t for t in held if not same(copies[id(t)], now[id(t)])]
        for tensor in altered:
            name = self._name(tensor)
            stand_in = self._first[self._holdings.keys[name]]
            whole = _layout(in_memory(tensor)) == _layout(in_memory(stand_in))
            if name in self._holdings.trainable or not whole:
                raise _changed(name)
            # A clone is of the running transform, and may be changed again.
            self._replace(stand_in, copies[id(tensor)].clone())
            self._replace(tensor, self._for[id(stand_in)])
        back = {id(copies[id(t)]): self._for.get(id(t), t) for t in held}
        return (back.get(id(output), output),)


def _attribute(func: Callable[..., Any]) -> str:
    """Which attribute of a tensor a function gets or sets."""
    name: str = getattr(getattr(func, "__self__", None), "__name__", "")
    return name


def _swap(
    args: Sequence[Any], kwargs: Mapping[str, Any], swaps: Mapping[int, Tensor]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    replaced = {key: _replaced(value, swaps) for key, value in kwargs.items()}
    return [_replaced(value, swaps) for value in args], replaced


def _replaced(value: Any, swaps: Mapping[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return swaps.get(id(value), value)
    if type(value) in (list, tuple):
        return type(value)(_replaced(v, swaps) for v in value)
    return value


@functools.cache
def _is_in_place(name: str) -> bool:
    """Whether a call of that name writes to its first argument, by PyTorch's conventions."""
    return name in IN_PLACE or (name.endswith("_") and not name.endswith("__"))


@functools.cache
def is_looked_at(name: str) -> bool:
    """Whether a call of that name may be one that is not carried out on a stand-in."""
    return name in ("__get__", "__set__") or name in derivatives.NAMES or _is_in_place(name)


def _written(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """What a call writes to."""
    if kwargs.get("out") is not None:
        return tensors_in([kwargs["out"]], {})
    if _is_in_place(name):
        first = args[0] if args else next(iter(kwargs.values()), None)
        return tensors_in([first], {})
    return []


def _turns_on(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    if name == "requires_grad_":
        return bool(args[1] if len(args) > 1 else kwargs.get("requires_grad", True))
    return False


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset()


def _as_allowed(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Asks for a gradient, as a transform does that the model itself uses.

    To anybody else transforms forbid it, and it is not needed: inputs have gradients there.
    """
    try:
        return func(*args, **kwargs)
    except RuntimeError:
        return args[0]


def _same_but_cast(now: Tensor, value: Tensor) -> bool:
    with outside(), torch.no_grad():
        return same(now.to(device=value.device, dtype=value.dtype), value)


def _changed(name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "`model` must leave its parameters as they are while it runs. Got "
        f"`{name}`, changed in place. Change a copy of it."
    )
