"""PyTorch's structured control flow, run as the Python that it stands for.

Eagerly `torch.cond` and its like are compiled, or traced, so that transforms do not see what their
branches compute, and tensors that a branch takes from around it lose their gradient. A branch that
is read is one on which samples must agree, as any other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgradnorm._operations.operation import Operation

_Function = Callable[..., Any]


def cond(pred: Any, true_fn: _Function, false_fn: _Function, operands: Sequence[Any] = ()) -> Any:
    """`torch.cond`: one branch or the other."""
    return (true_fn if bool(pred) else false_fn)(*operands)


def while_loop(
    cond_fn: _Function,
    body_fn: _Function,
    carried: Sequence[Any],
    additional: Sequence[Any] = (),
) -> Any:
    """A loop that goes on as long as a condition holds: what it carries in the end."""
    carried = tuple(carried)
    while bool(cond_fn(*carried, *additional)):
        made = body_fn(*carried, *additional)
        carried = tuple(made) if isinstance(made, (tuple, list)) else (made,)
    return carried


def scan(
    combine_fn: _Function,
    init: Sequence[Any],
    xs: Sequence[Tensor],
    additional: Sequence[Any] = (),
) -> Any:
    """What is carried from row to row, in the end, and what each row has given."""
    carried, rows = list(init), []
    for each in zip(*(x.unbind() for x in xs), strict=True):
        made = list(combine_fn(*carried, *each, *additional))
        carried, given = made[: len(init)], made[len(init) :]
        rows.append(given)
    return [*carried, *(torch.stack(column) for column in zip(*rows, strict=True))]


def mapped(
    function: _Function,
    xs: Sequence[Tensor],
    others: Sequence[Any] = (),
    mutated_arg_indices: str = "",
) -> Any:
    """A function of each row; which arguments it writes to is for graphs, since PyTorch 2.15."""
    made = [function(*each, *others) for each in zip(*(x.unbind() for x in xs), strict=True)]
    leaves = [pytree.tree_leaves(each) for each in made]
    columns = [torch.stack(column) for column in zip(*leaves, strict=True)]
    return pytree.tree_unflatten(columns, pytree.tree_structure(made[0]))


# By what PyTorch calls them; a version that does not know one has nothing to be run.
CONTROL_FLOW: dict[Any, _Function] = {
    operator: function
    for name, function in (
        ("cond", cond),
        ("while_loop", while_loop),
        ("scan", scan),
        ("map_impl", mapped),
    )
    if (operator := getattr(torch.ops.higher_order, name, None)) is not None
}
OPERATIONS: dict[Callable[..., Any], Operation] = {
    operator: Operation(opened=function) for operator, function in CONTROL_FLOW.items()
}
