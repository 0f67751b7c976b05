"""Models that count on how their tensors lie in memory.

Convolutions may put the channels last, where the model would have had a contiguous
tensor. To nearly all models that is the same. What is not is told here, so that the pass can be
made again without.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fastgradnorm_kernels.functorch import in_memory
from torch import Tensor

from fastgradnorm._model.standins import IN_PLACE, is_looked_at
from fastgradnorm._operations import COPIED

# What may give a view of a contiguous tensor, and a copy of another.
_VIEW_OR_COPY = frozenset({"contiguous", "flatten", "ravel", "reshape", "reshape_as"})


class LayoutError(RuntimeError):
    """The model counts on how its tensors lie in memory."""


def check_copies(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises `LayoutError` for a change in place of a copy that would have been a view."""
    if args and hasattr(args[0], COPIED) and may_be_in_place(name, args, kwargs):
        raise LayoutError(f"`{name}` of a copy that would have been a view")


def check_memory(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> None:
    """Looks at one operation of a model, by name, whose tensors may not be contiguous.

    Raises:
        LayoutError: If its result would be another for contiguous ones: `as_strided`.
    """
    if not args or not isinstance(args[0], Tensor):
        return
    if name == "as_strided" and not in_memory(args[0]).is_contiguous():
        raise LayoutError("`as_strided` of a tensor that is not contiguous")
    if name in _VIEW_OR_COPY and isinstance(output, Tensor):
        source = in_memory(args[0])
        if not source.is_contiguous() and in_memory(output).data_ptr() != source.data_ptr():
            setattr(output, COPIED, True)


def is_only_called(name: str) -> bool:
    """Whether a call of that name is no matter of memory: nothing is to be done but to make it."""
    special = name in _VIEW_OR_COPY or name in ("as_strided", "__array__", "numpy", "register_hook")
    overload = "." in name  # an operator of PyTorch's by its full name, which tells less
    return not special and not overload and not is_looked_at(name)


def may_be_in_place(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call may change what it is given."""
    if name.startswith("__"):
        return name in IN_PLACE
    return name.endswith("_") or bool(kwargs.get("inplace")) or any(a is True for a in args[1:])
