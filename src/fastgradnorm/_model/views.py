"""Parameters and the views a model takes of them: `weight.T`, a chunk of a packed projection."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgradnorm._operations import tensors_in

# fmt: off
_VIEWS = frozenset({
    "chunk", "contiguous", "flatten", "movedim", "narrow", "permute", "reshape", "select",
    "split", "split_with_sizes", "squeeze", "swapaxes", "t", "tensor_split", "transpose",
    "unbind", "unflatten", "unsafe_chunk", "unsqueeze", "view", "__getitem__",
})
# fmt: on
_VIEW_PROPERTIES = frozenset({"T", "mT"})


class Piece(NamedTuple):
    """A parameter, or what the views along `path` leave of it."""

    name: str
    path: tuple[str, ...] = ()


class Pieces:
    """Knows tracked parameters and their views by identity.

    Args:
        tracked: Tensors that stand for the parameters, by name.
        indexed: Also keep which elements of its parameter each view holds.
    """

    def __init__(self, tracked: Mapping[str, Tensor], indexed: bool = False) -> None:
        self._known = {id(t): (t, Piece(name)) for name, t in tracked.items()}
        self._indices: dict[Piece, Tensor] | None = {} if indexed else None

    def of(self, value: Any) -> Piece | None:
        """The piece that a value is, if it is one."""
        known = self._known.get(id(value))
        return None if known is None else known[1]

    def among(self, tensors: Iterable[Tensor]) -> list[Piece]:
        """The pieces among tensors, one for each time it stands there."""
        return [known[1] for t in tensors if (known := self._known.get(id(t))) is not None]

    def tensors(self) -> list[tuple[Tensor, Piece]]:
        """Every tracked tensor, parameters and views."""
        return list(self._known.values())

    def elements(self, piece: Piece) -> Tensor | None:
        """Indices into the flattened parameter, or None for all of it."""
        return None if self._indices is None else self._indices.get(piece)

    def note_view(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], output: Any
    ) -> bool:
        """Tracks what a view operation made of a tracked tensor; False if it is none."""
        name = view_name(func)
        parent = self.of(args[0]) if args else None
        if name is None or parent is None or len(tensors_in(args, kwargs)) != 1:
            return False
        given = pytree.tree_leaves((tuple(args[1:]), dict(kwargs)))
        if any(isinstance(value, (torch.dtype, np.ndarray)) for value in given):
            return False  # the same bytes, read as other numbers; an index not written in full
        if output is args[0]:
            return True
        base = f"{name}{tuple(args[1:])}{dict(kwargs) or ''}"
        several = isinstance(output, (tuple, list))
        outputs = list(output) if several else [output]
        indices = self._elements_of_views(func, args, kwargs, parent)
        for i, tensor in enumerate(outputs):
            piece = Piece(parent.name, (*parent.path, f"{base}[{i}]" if several else base))
            self._known[id(tensor)] = (tensor, piece)
            if self._indices is not None:
                self._indices[piece] = indices[i]
        return True

    def _elements_of_views(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        parent: Piece,
    ) -> Sequence[Tensor]:
        """The same views of a table of element numbers."""
        if self._indices is None:
            return ()
        table = self._indices.get(parent)
        if table is None:
            table = torch.arange(args[0].numel(), device=args[0].device).view(args[0].shape)
        made = func(table, *args[1:], **kwargs)
        return made if isinstance(made, (tuple, list)) else [made]


def view_name(func: Callable[..., Any]) -> str | None:
    """The name of an operation that only rearranges or selects elements, else None."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        owner = getattr(getattr(func, "__self__", None), "__name__", "")
        return owner if owner in _VIEW_PROPERTIES else None
    return name if name in _VIEWS else None
