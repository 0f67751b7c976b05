"""What is made of the sample that a model runs on, and what of its parameters alone."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from fastgradnorm._model.watch import FACTORIES
from fastgradnorm._operations import tensors_in

# What makes a tensor of numbers that may be anything's.
_READ = frozenset({"as_tensor", "asarray", "from_numpy", "frombuffer", "new_tensor", "tensor"})


class Origins:
    """Of the tensors of a pass, as far as its calls are seen.

    Args:
        inputs: The sample.
        stands_in: Whether a tensor is one that the model holds.

    Attributes:
        sample: Tensors that depend on the sample, also without a gradient.
        made: Tensors with a gradient that are made of parameters and constants.
        constants: Those without one. Where a tensor comes from nowhere it may be the sample, that
            was a list or an array in between.
    """

    def __init__(self, inputs: Iterable[Tensor], stands_in: Callable[[Tensor], bool]) -> None:
        self.sample, self.made, self.constants = _Known(), _Known(), _Known()
        self.sample.add(inputs)
        self._stands_in = stands_in

    def note(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        """Of a call: what it returned, and what it wrote to, also by a view of it."""
        name, given = getattr(func, "__name__", ""), tensors_in(args, kwargs)
        writes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        written = tensors_in(args[:1] if writes else [], {"out": kwargs.get("out")})
        found = [*tensors_in([output], {}), *written, *_viewed(written)]
        if name not in FACTORIES and any(map(self._is_of_sample, given)):
            self.sample.add(found)
        elif name not in _READ and all(map(self._is_without, given)):
            self.made.add(t for t in found if t.grad_fn is not None)
            self.constants.add(t for t in found if t.grad_fn is None)

    def _is_of_sample(self, tensor: Tensor) -> bool:
        return tensor in self.sample or any(t in self.sample for t in _viewed([tensor]))

    def _is_without(self, tensor: Tensor) -> bool:
        return tensor in self.made or tensor in self.constants or self._stands_in(tensor)

    def without_sample(self, call: Mapping[str, Any]) -> list[Tensor]:
        """Arguments that are made of parameters alone.

        What an unseen call has made is one of them where it is the weight or bias of a layer.
        """
        if "weight" in call or "bias" in call:
            named = tensors_in([call.get("weight"), call.get("bias")], {})
            return [t for t in named if t.grad_fn is not None and not self._is_of_sample(t)]
        known = [t for t in tensors_in(call.values(), {}) if t in self.made]
        return [t for t in known if not self._is_of_sample(t)]


def _viewed(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What those are views of that are some."""
    return [base for t in tensors if (base := t._base) is not None]


class _Known:
    """Tensors, as long as they are there."""

    def __init__(self) -> None:
        self._by_id: dict[int, weakref.ref[Tensor]] = {}

    def add(self, tensors: Iterable[Tensor]) -> None:
        self._by_id.update((id(t), weakref.ref(t)) for t in tensors)

    def __contains__(self, tensor: Tensor) -> bool:
        known = self._by_id.get(id(tensor))
        return known is not None and known() is tensor


def behind(tensor: Tensor, leaves: Mapping[str, Tensor]) -> list[str]:
    """Names of the parameters that a tensor is made of."""
    ends, seen, stack = set(), {tensor.grad_fn}, [tensor.grad_fn]
    while stack:
        node = stack.pop()
        ends.add(id(getattr(node, "variable", None)))
        for parent, _ in node.next_functions if node is not None else ():
            if parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return [name for name, leaf in leaves.items() if id(leaf) in ends]
