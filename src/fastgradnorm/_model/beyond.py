"""Labels for which there is no class, read from the call that fails on them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fastgradnorm._errors import LossError

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
# Their input has the classes in dimension 1, or in its only one.
_LOSSES: tuple[Any, ...] = (F.cross_entropy, F.nll_loss, F.multi_margin_loss)
_ALONG = ("gather", "index_select", "take_along_dim")  # of a dimension that they are given


class _Call(NamedTuple):
    func: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


class _Failing(TorchFunctionMode):
    """Keeps the call that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.call: _Call | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            self.call = self.call or _Call(func, args, kwargs or {})
            raise


def out_of_range(
    call: Callable[[], Any], error: Exception, of_losses: bool = False
) -> LossError | None:
    """What to raise for a label that there is no class for; None: that is not why a call fails.

    Args:
        call: It.
        error: How it failed.
        of_losses: Whether only losses of PyTorch count, since a model looks up other things too.
    """
    failing = _Failing()
    with failing, suppress(Exception):
        call()
    if failing.call is None or (of_losses and failing.call.func not in _LOSSES):
        return None
    leaves = pytree.tree_leaves((failing.call.args, failing.call.kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    numbers = [leaf for leaf in leaves if type(leaf) is int]
    given = [int(value) for t in tensors if t.dtype in _WHOLE for value in t.flatten().unique()]
    most = _classes(failing.call)
    if most is None:
        counts = [size for t in tensors if t.is_floating_point() for size in t.shape]
        most = max(counts or numbers, default=0)
    least = 0 if given else -most  # a number alone may be a place from the end
    left_out = failing.call.kwargs.get("ignore_index", -100)
    labels = given or numbers
    if failing.call.func in _LOSSES:
        labels = [value for value in labels if value != left_out]
    wrong = [value for value in labels if value >= most or value < least]
    if not (most and wrong):
        return None
    return LossError(
        f"`loss` must be given labels within the model's classes. Got {wrong[-1]}, which is "
        f"out of range for {most}: {type(error).__name__}: {error}"
    )


def _classes(call: _Call) -> int | None:
    """How many classes a call chooses from; None: that is not known."""
    source = call.args[0] if call.args else call.kwargs.get("input")
    if not isinstance(source, Tensor) or not source.dim():
        return None
    if call.func in _LOSSES:
        return source.shape[min(1, source.dim() - 1)]
    name = getattr(call.func, "__name__", "")
    if name in _ALONG:
        dim = call.kwargs.get("dim", next((arg for arg in call.args if type(arg) is int), None))
        return source.shape[dim] if isinstance(dim, int) else None
    if name == "__getitem__" and isinstance(call.args[1], tuple):
        places = [i for i, part in enumerate(call.args[1]) if isinstance(part, Tensor)]
        only = len(places) and all(isinstance(p, (Tensor, slice, int)) for p in call.args[1])
        return source.shape[places[-1]] if only else None
    return None


def has_classes_last(logits: Any, label: Any, class_dim: int) -> bool:
    """Whether class indices `[N, *positions]` fit logits `[N, *positions, C]`, read otherwise."""
    if not (isinstance(logits, Tensor) and isinstance(label, Tensor)) or class_dim != 1:
        return False
    return logits.dim() > 2 and label.shape == logits.shape[:-1] and label.dtype in _WHOLE
