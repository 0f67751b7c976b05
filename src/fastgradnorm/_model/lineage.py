"""Whether logits still come from the layer that a plan takes for the last one.

A model that branches may give one layer's output to another for some samples and return it for
others, or run two and return either. A plan of the one layer would find its taps in place for
all of them. So a pass that counts the last layer alone follows what is made of that layer.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from fastgradnorm._model.watch import PlanChangedError
from fastgradnorm._operations import tensors_in


class _State(Enum):
    SAMPLE = "made of the sample, without a gradient that counts here"
    OTHER = "made of other trainable parameters"
    OWN = "made of the layer's parameters alone"
    LAYER = "made of the layer's output"
    BEYOND = "made of the layer's output and of other trainable parameters"


_UNLINKED = frozenset({"detach", "detach_", "stop_gradient"})


class Lineage:
    """Of the tensors of one pass, as far as its calls are seen.

    Args:
        own: The layer's parameters, as the pass has them.
        others: All other trainable parameters.
        sample: What the model is given.
    """

    def __init__(
        self, own: Iterable[Tensor], others: Iterable[Tensor], sample: Iterable[Tensor]
    ) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], _State]] = {}
        for state, tensors in (
            (_State.SAMPLE, sample),
            (_State.OTHER, others),
            (_State.OWN, own),
        ):
            for tensor in tensors:
                self._set(tensor, state)

    def note(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        """Of a call: what it returned, and what it wrote to."""
        given = tensors_in(args, kwargs)
        state = _joined({self._state(t) for t in given} - {None})
        if state is None:
            return
        name = getattr(func, "__name__", "")
        if not torch.is_grad_enabled() or name in _UNLINKED:
            state = _State.SAMPLE
        written = tensors_in([kwargs.get("out")], {})
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            written += tensors_in(args[:1], {})
        inside = [t for t in tensors_in([output], {}) if self._state(t) is None]
        for tensor in (*written, *inside):  # calls within this one have said what theirs are
            numbers = tensor.is_floating_point() or tensor.is_complex()
            self._set(tensor, state if numbers else _State.SAMPLE)

    def is_own(self, tensor: Tensor) -> bool:
        """Whether it is made of the layer's parameters alone."""
        return self._state(tensor) is _State.OWN

    def check(self, head: Tensor) -> None:
        """Raises `PlanChangedError` if what the layer should have made comes from another one."""
        if self._state(head) in (_State.OTHER, _State.BEYOND):
            raise PlanChangedError

    def _state(self, tensor: Tensor) -> _State | None:
        known = self._known.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def _set(self, tensor: Tensor, state: _State) -> None:
        self._known[id(tensor)] = weakref.ref(tensor), state


def _joined(states: set[Any]) -> _State | None:
    if _State.OWN in states:  # with anything else it is the layer that is run, again or at last
        return _State.LAYER if len(states) > 1 else _State.OWN
    if _State.BEYOND in states or {_State.LAYER, _State.OTHER} <= states:
        return _State.BEYOND
    order = (_State.LAYER, _State.OTHER, _State.SAMPLE)
    return next((state for state in order if state in states), None)
