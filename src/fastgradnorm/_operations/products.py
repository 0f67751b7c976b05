"""Matrix products with one parameter: `x @ w`, `addmm`, `bmm`, `einsum`; bilinear layers."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.operation import Operation, ruled
from fastgradnorm._operations.rules import Call, Joint, Rule, Shape, outer_rule


def _one_parameter(call: Call, tracked: Collection[str], names: Sequence[str]) -> str | None:
    found = [name for name in names if name in tracked]
    return found[0] if len(found) == 1 else None


def _matmul(call: Call, tracked: Collection[str]) -> Rule | None:
    slot = _one_parameter(call, tracked, ("input", "other"))
    if slot is None:
        return None
    right = slot == "other"
    weight, x = call[slot], call["input" if right else "other"]
    if weight.dim() == 2:
        groups = 1
    elif weight.dim() == 3 and x.dim() == 3 and len(x) == len(weight):
        groups = len(weight)
    else:
        return None
    if x.dim() < 2:
        return None
    inputs, outputs = weight.shape[-2:] if right else weight.shape[:-3:-1]

    def parts(saved: Sequence[Tensor], g: Tensor) -> tuple[Tensor, Tensor]:
        (a,) = saved
        if not right:  # w x: the columns of x and of g are the positions
            a, g = a.mT, g.mT
        return a.reshape(groups, -1, inputs), g.reshape(groups, -1, outputs)

    shape = Shape(x.numel() // max(1, inputs * groups), inputs, outputs)
    return outer_rule((x,), Joint("outer", slot, parts, flipped=right), shape, groups)


def _addmm(call: Call, tracked: Collection[str]) -> Rule | None:
    if call["beta"] != 1 or call["alpha"] != 1 or "mat1" in tracked:
        return None
    x, weight, bias = call["mat1"], call["mat2"], call["input"]
    inputs, outputs = weight.shape
    if "input" in tracked and bias.shape != (outputs,):
        return None  # its gradient is a sum over what it is broadcast to

    def parts(saved: Sequence[Tensor], g: Tensor) -> tuple[Tensor, Tensor]:
        return saved[0][None], g[None]

    shape = Shape(len(x), inputs, outputs)
    joint = Joint("outer", "mat2", parts, flipped=True)
    added = "input" if "input" in tracked else None
    return outer_rule((x,), joint, shape, 1, added, lambda g: g)


def _einsum(call: Call, tracked: Collection[str]) -> Rule | None:
    """Letters of a two-operand product: in both and the output: groups; contracted: inputs."""
    slot = _one_parameter(call, tracked, ("first", "second"))
    if slot is None or not isinstance(call["equation"], str) or call["second"] is None:
        return None
    terms, arrow, out = call["equation"].replace(" ", "").partition("->")
    operands = terms.split(",")
    if not arrow or len(operands) != 2 or "." in call["equation"]:
        return None
    w, x = operands if slot == "first" else operands[::-1]
    tensor = call["second" if slot == "first" else "first"]
    if any(len(set(term)) < len(term) for term in (w, x, out)):
        return None
    shared = [c for c in w if c in x and c in out]
    inputs = [c for c in w if c in x and c not in out]
    outputs = [c for c in w if c not in x and c in out]
    positions = [c for c in x if c not in w]
    if len(shared) + len(inputs) + len(outputs) < len(w) or any(c not in out for c in positions):
        return None
    sizes = {
        **dict(zip(w, call[slot].shape, strict=True)),
        **dict(zip(x, tensor.shape, strict=True)),
    }
    if any(sizes[c] != n for c, n in zip(w, call[slot].shape, strict=True)):
        return None  # a dimension of 1 that is broadcast

    def size(letters: Sequence[str]) -> int:
        return int(torch.Size([sizes[c] for c in letters]).numel())

    def arrange(t: Tensor, letters: str, last: Sequence[str]) -> Tensor:
        order = [letters.index(c) for c in (*shared, *positions, *last)]
        return t.permute(order).reshape(size(shared), size(positions), size(last))

    def parts(saved: Sequence[Tensor], g: Tensor) -> tuple[Tensor, Tensor]:
        return arrange(saved[0], x, inputs), arrange(g, out, outputs)

    shape = Shape(size(positions), size(inputs), size(outputs))
    # Not joint: another use may order the letters in another way, which is another layout of w.
    joint = Joint("outer", slot, parts)
    rule = outer_rule((tensor,), joint, shape, size(shared))
    return replace(rule, joint=None)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.bilinear` as a linear layer on the outer products of its inputs."""
    outer = (input1.unsqueeze(-1) * input2.unsqueeze(-2)).flatten(-2)
    return F.linear(outer, weight.flatten(1), bias)


_MATMULS: list[Callable[..., Any]] = [
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.mm,
    torch.Tensor.mm,
    torch.bmm,
    torch.Tensor.bmm,
]
_ADDMMS: list[Callable[..., Any]] = [torch.addmm, torch.Tensor.addmm]

OPERATIONS: dict[Callable[..., Any], Operation] = {
    **{function: ruled(_matmul, "input other", narrow=True) for function in _MATMULS},
    **{
        function: ruled(_addmm, "input mat1 mat2", narrow=True, beta=1, alpha=1)
        for function in _ADDMMS
    },
    torch.einsum: ruled(_einsum, "equation first second", second=None),
    torch.bilinear: Operation(opened=bilinear),
}
