"""Whether a model is to all appearance what it was, from one call to the next.

Unlike a model that is changed while a pool is scored, one that was changed between two calls is
ordinary: it was trained. So nothing is told of it, and the answer errs to "no": what was learnt of
the model is then learnt anew.
"""

import weakref
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from fastgradnorm_kernels.switches import writes
from torch import Tensor, nn

_HELD = ("_parameters", "_buffers", "_modules")
_CONTAINERS = (dict, list, tuple, set, frozenset)


class Appearance:
    """A model at this moment: its modules, what each has for attributes, and all their values.

    Values that were written in place are told by PyTorch's count of such writes. Of attributes that
    are containers, the elements are looked at, and not what is within these.

    Args:
        model: The caller's.
    """

    def __init__(self, model: nn.Module) -> None:
        seen = list(_look(model))
        self._facts = [fact for fact, _ in seen]
        self._objects = [_hold(held) for _, held in seen]

    def is_of(self, model: nn.Module) -> bool:
        """Whether `model` looks like that now; what was freed since is another one."""
        now = list(_look(model))
        if len(now) != len(self._facts):
            return False
        pairs = zip(self._facts, self._objects, now, strict=True)
        return all(fact == new and still() is held for fact, still, (new, held) in pairs)


def _look(model: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Pairs of a fact, to be equal, and an object, to be the same one."""
    yield torch.get_default_dtype(), None
    for device in ("cpu", "cuda"):
        yield (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)), None
    kinds: dict[type, None] = {}
    for path, module in model.named_modules():
        kinds[type(module)] = None
        yield path, module
        yield "class", type(module)
        yield "forward", type(module).forward
        for name, value in module.__dict__.items():
            if name not in _HELD:
                yield from _attribute(name, value)
        for name, tensor in chain(module._parameters.items(), module._buffers.items()):
            yield _values(name, tensor), tensor
    for kind in kinds:
        yield from _of_class(kind)


def _of_class(kind: type) -> Iterator[tuple[Any, Any]]:
    """What a class of the caller's says of its modules: methods and settings."""
    for each in kind.__mro__:
        if each is nn.Module:
            return
        if each.__module__.partition(".")[0] != "torch":
            for name, value in each.__dict__.items():
                yield from _attribute(name, value)


def _attribute(name: str, value: Any) -> Iterator[tuple[Any, Any]]:
    if not isinstance(value, _CONTAINERS):
        yield (_values(name, value) if isinstance(value, Tensor) else name), value
        return
    yield (name, type(value), len(value)), None
    parts = chain.from_iterable(value.items()) if isinstance(value, dict) else value
    for part in parts:
        yield (_values(name, part) if isinstance(part, Tensor) else name), part


def _values(name: str, tensor: Tensor | None) -> Any:
    """Where its values are, how often they were written, and what is asked of them."""
    if tensor is None:
        return name
    try:
        place = tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # of subclasses
        return name, object()
    return name, place, writes(tensor), tensor.requires_grad


def _hold(held: Any) -> Callable[[], Any]:
    """Tensors and modules are not kept alive; numbers are, so that no other takes their place."""
    return weakref.ref(held) if isinstance(held, Tensor | nn.Module) else lambda: held
