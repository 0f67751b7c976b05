"""The table of all operations that are known; the others are run as they are.

A rule sees one call inside `vmap` over samples, so every tensor belongs to one sample: a leading
batch dimension is 1, or counts more positions where the model folded some into it (windows,
frames).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastgradnorm._errors import ArgumentTypeError
from fastgradnorm._operations import (
    activations,
    attention,
    conjugates,
    control_flow,
    convolutions,
    counting,
    ctc,
    embeddings,
    in_place,
    joining,
    linalg,
    linear,
    losses,
    norms,
    others,
    packed,
    picking,
    placing,
    pooling,
    products,
    recurrent,
    regrouping,
    shared_indices,
    sparse,
    spectra,
    unbatched,
    unbatched_losses,
)
from fastgradnorm._operations.operation import Operation
from fastgradnorm._operations.rules import Call, Rule

TABLE: dict[Callable[..., Any], Operation] = {
    **activations.OPERATIONS,
    **attention.OPERATIONS,
    **conjugates.OPERATIONS,
    **control_flow.OPERATIONS,
    **convolutions.OPERATIONS,
    **counting.OPERATIONS,
    **ctc.OPERATIONS,
    **embeddings.OPERATIONS,
    **in_place.OPERATIONS,
    **joining.OPERATIONS,
    **linalg.OPERATIONS,
    **linear.OPERATIONS,
    **losses.OPERATIONS,
    **norms.OPERATIONS,
    **others.OPERATIONS,
    **packed.OPERATIONS,
    **picking.OPERATIONS,
    **placing.OPERATIONS,
    **pooling.OPERATIONS,
    **products.OPERATIONS,
    **recurrent.OPERATIONS,
    **shared_indices.OPERATIONS,
    **spectra.OPERATIONS,
    **unbatched.OPERATIONS,
    **unbatched_losses.OPERATIONS,
    **regrouping.OPERATIONS,
}
_UNKNOWN = Operation()
TABLE |= {func: replace(TABLE.get(func, _UNKNOWN), form=f) for func, f in sparse.FORMS.items()}


def known(func: Callable[..., Any]) -> Operation:
    """What the table has of `func`, an entry of nothing for one that is not there."""
    return TABLE.get(func, _UNKNOWN)


def replaced(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], **others: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with `others` in their places: some may be given by name alone."""
    names = TABLE[func].names[: len(args)]
    placed = [others.get(name, value) for name, value in zip(names, args, strict=False)]
    named = {name: value for name, value in others.items() if name not in names}
    return (*placed, *args[len(names) :]), {**kwargs, **named}


def make_rule(func: Callable[..., Any], call: Call, tracked: Collection[str]) -> Rule | None:
    """The rule of a bound call, or None where it does not apply to these arguments."""
    make = TABLE[func].rule
    tensors = [value for value in call.values() if isinstance(value, Tensor)]
    # Rules are of real numbers, and of some: without any there is nothing to gain.
    if make is None or any(t.is_complex() or t.numel() == 0 for t in tensors):
        return None
    if any(t.layout != torch.strided for t in tensors):
        return None
    return make(call, tracked)


def register_rule(
    func: Callable[..., Any], rule: Callable[[Call], Rule | None], names: Sequence[str]
) -> None:
    r"""Teach the engine an operation of your own.

    Without a rule an operation is exact too, but the per-sample gradients of its parameters are
    formed, which costs memory. `verify=True` compares a rule with autograd.

    Args:
        func: The function as PyTorch's `__torch_function__` protocol shows it: an operation of
            torch, or a Python function wrapped by `torch.overrides.wrap_torch_function`.
        rule: Given the arguments of a call by name, each tensor that of one sample, returns a
            `Rule` (what to save, and each parameter's squared norm from it and the gradient at the
            output), or None where it does not apply.
        names: Names of the positional arguments, in order.

    Raises:
        TypeError: If `func` or `rule` cannot be called.

    Example:
        >>> import torch
        >>> @torch.overrides.wrap_torch_function(lambda x, gain: (x, gain))
        ... def amplify(x, gain):  # [1, D] times one number
        ...     return x * gain
        >>> def amplify_rule(call):
        ...     def sq_norms(saved, g):  # d loss / d gain = sum of x * g
        ...         return {"gain": (saved[0] * g).sum().square()}
        ...     return Rule(slots=("gain",), saved=(call["x"],), sq_norms=sq_norms)
        >>> register_rule(amplify, amplify_rule, names=["x", "gain"])
    """
    for name, value in (("func", func), ("rule", rule)):
        if not callable(value):
            raise ArgumentTypeError(f"`{name}` must be callable. Got {type(value).__name__}.", name)
    TABLE[func] = replace(
        known(func),
        names=tuple(names),
        defaults={},
        rule=lambda call, tracked: rule(call),
        opened=None,
    )
