"""What autograd's graph tells of an output: its last operations, and the parameters behind it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Nodes that hand values on as they are.
_SHAPES = frozenset({
    "Alias", "AsStrided", "Clone", "Expand", "Permute", "ReshapeAlias", "Select", "Slice",
    "Squeeze", "T", "ToCopy", "Transpose", "Unsqueeze", "UnsafeView", "View",
})  # fmt: skip
_MOST = 12  # nodes


def last_operations(output: Tensor) -> list[str]:
    """Names of the last operations, the last one first, as far as each has one operand.

    Without those that only move or cast values. An operation with parameters ends the list.
    """
    found: list[str] = []
    node: Any = output.grad_fn
    while node is not None and len(found) < _MOST:
        name = _name(node)
        if name not in _SHAPES:
            found.append(name)
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        if len(parents) != 1 or hasattr(parents[0], "variable"):
            break
        node = parents[0]
    return found


def parameters_behind(output: Tensor, leaves: Mapping[str, Tensor]) -> frozenset[str]:
    """Names of the parameters that an output depends on."""
    names = {id(leaf): name for name, leaf in leaves.items()}
    if id(output) in names:
        return frozenset({names[id(output)]})
    ends = (getattr(node, "variable", None) for node in _nodes(output))
    return frozenset(names[id(end)] for end in ends if id(end) in names)


def comes_from(output: Tensor, other: Tensor) -> bool:
    """Whether an output is made of another one."""
    return other.grad_fn is not None and other.grad_fn in _nodes(output)


def _nodes(output: Tensor) -> set[Any]:
    """All that an output comes from."""
    found: set[Any] = set()
    stack: list[Any] = [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in found:
            found.add(node)
            stack += [parent for parent, _ in node.next_functions]
    return found


def _name(node: Any) -> str:
    return str(node.name()).partition("Backward")[0]
