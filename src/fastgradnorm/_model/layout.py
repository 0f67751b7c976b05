"""Samples and cotangents as more rows of a batch, and where its channels lie in memory.

Convolutions on the CPU may put the channels last, where the model would have had a contiguous
tensor. To nearly all models that is the same. What is not is told here, so that the pass can be
made again without.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch._C._functorch as functorch
from fastgradnorm_kernels.levels import bare, outside, wrapped
from torch import Tensor

# What may give a view of a contiguous tensor, and a copy of another.
_VIEW_OR_COPY = frozenset({"contiguous", "flatten", "ravel", "reshape", "reshape_as"})
_COPIED = "_fastgradnorm_copied"  # attribute of a tensor that is such a copy


class LayoutError(RuntimeError):
    """The model counts on how its tensors lie in memory."""


class Rows(NamedTuple):
    """A batch `[B, C, *]` under vmap as one of all samples and cotangents.

    Attributes:
        tensor: `[N * B, C, *]`, without wrappers.
        sizes: Of the levels of vmap, from the outermost.
        levels: Which they are.
    """

    tensor: Tensor
    sizes: tuple[int, ...]
    levels: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor) -> "Rows":
        """Of a tensor of which no derivative is being taken."""
        inside = bare(x)
        assert inside is not None
        count = len(inside.places)
        with outside():
            rows = inside.fronted()
            return cls(rows.flatten(0, count), tuple(rows.shape[:count]), tuple(inside.places))

    def apply(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """What `function` makes of the rows, under vmap again."""
        with outside():
            output = function(self.tensor).unflatten(0, (*self.sizes, -1))
        return wrapped(output, self.levels)


def layout(tensor: Tensor) -> torch.memory_format:
    """Of a plain tensor `[B, C, *]`: channels last, or else contiguous, which may mean a copy."""
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not tensor.is_contiguous() else torch.contiguous_format


def in_memory(tensor: Tensor) -> Tensor:
    """The tensor in memory, with all its samples."""
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def check_memory(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> None:
    """Looks at one operation of a model, by name, whose tensors may not be contiguous.

    Raises:
        LayoutError: If its result would be another for contiguous ones: `as_strided`, and changes
            in place of what would have been a view and is a copy.
    """
    if not args or not isinstance(args[0], Tensor):
        return
    if name == "as_strided" and not in_memory(args[0]).is_contiguous():
        raise LayoutError("`as_strided` of a tensor that is not contiguous")
    if hasattr(args[0], _COPIED) and _may_be_in_place(name, args, kwargs):
        raise LayoutError(f"`{name}` of a copy that would have been a view")
    if name in _VIEW_OR_COPY and isinstance(output, Tensor):
        source = in_memory(args[0])
        if not source.is_contiguous() and in_memory(output).data_ptr() != source.data_ptr():
            setattr(output, _COPIED, True)


def _may_be_in_place(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    if name.startswith("__"):
        return name == "__setitem__" or name.startswith("__i")
    return name.endswith("_") or bool(kwargs.get("inplace")) or any(a is True for a in args[1:])
