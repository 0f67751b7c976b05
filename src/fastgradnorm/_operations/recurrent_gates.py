"""The gates of all steps of a recurrent layer as one operation, and the rule of its weights.

What steps have begun with is given, so that none depends on another. Only the gradient at the
output matters, nobody reads its values: they are not computed where that can be told.
"""

from collections.abc import Callable, Collection
from typing import Any

import fastgradnorm_kernels as kernels
import torch
from fastgradnorm_kernels.recurrent_norm import Columns
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations import linear
from fastgradnorm._operations.operation import Operation, ruled
from fastgradnorm._operations.rules import Call, Joint, Rule, Saved, Shape
from fastgradnorm._operations.single_level import (
    SingleLevel,
    is_differentiated,
    is_frozen,
    unwrap,
    wrap,
)


def _given(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return (*args, *kwargs.values())


_WEIGHTS, _BIASES = ("weight_input", "weight_hidden"), ("bias_input", "bias_hidden")
_SLOTS = _WEIGHTS + _BIASES


@torch.overrides.wrap_torch_function(_given)
def recurrent_gates(
    input: Tensor,
    previous: Tensor,
    weight_input: Tensor,
    weight_hidden: Tensor,
    bias_input: Tensor | None,
    bias_hidden: Tensor | None,
    output: Tensor,
) -> Tensor:
    """Products of the input and of the hidden states before, added up, `[T, B, gates]`.

    Where `output`, of whose shape the result is, has more columns than either, the last of both are
    not added up, and stand behind the others.
    """
    x = F.linear(input, weight_input, bias_input)
    h = F.linear(previous, weight_hidden, bias_hidden)
    both = _columns(input, weight_input, output).both
    parts = x[..., both:], h[..., both:]
    return torch.cat([x[..., :both] + h[..., :both], *parts], -1)


def _columns(input: Tensor, weight_input: Tensor, output: Tensor) -> Columns:
    own = output.shape[-1] - len(weight_input)
    return Columns(input.shape[-1], len(weight_input) - own, own)


def _unread(input: Tensor, previous: Tensor, *others: Any) -> Tensor:
    """The same where only the gradient at the output matters: any tensor of its shape."""
    *weights, output = others
    if not is_frozen(*weights):
        made: Tensor = recurrent_gates(input, previous, *weights, output)
        return made
    if not is_differentiated(input):
        return output  # type: ignore[no-any-return]
    light: Tensor = _Unread.within(input, weights[0], output)
    return light


class _Unread(SingleLevel):
    """`output`, differentiated by the input alone."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, output: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.dtype = input.dtype
        return wrap(unwrap(output))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        pulled = linear.product(g[..., : len(weight)], weight.to(g.dtype).mT, None)
        return pulled.to(ctx.dtype), None, None


def _rule(call: Call, tracked: Collection[str]) -> Rule:
    x, previous, output = call["input"], call["previous"], call["output"]
    columns = _columns(x, call["weight_input"], output)
    positions, width = output[..., 0].numel(), len(call["weight_input"])
    weights = [slot for slot in _WEIGHTS if slot in tracked]
    biases = [slot for slot in _BIASES if slot in tracked]

    def rows(tensor: Tensor) -> Tensor:
        return tensor.reshape(1, positions, -1)

    def sq_norms(saved: Saved, g: Tensor) -> dict[str, Tensor]:
        a, g = torch.cat([rows(each) for each in saved], -1), rows(g)
        if len(weights) == 2:
            norms = kernels.recurrent_sq_norms(a, g[:, None], columns.inputs, columns.both)[0, 0]
            return {slot: norms[i] for i, slot in enumerate(_SLOTS) if slot in tracked}
        found, shares = {}, columns.gradients(g)
        for slot in weights:
            i = _WEIGHTS.index(slot)
            each = columns.activations(a)[i]
            found[slot] = kernels.weight_sq_norm(each, shares[i][:, None])[0, 0]
        for slot in biases:
            own = shares[slot == "bias_hidden"]
            same = biases[0] if slot == "bias_hidden" and not columns.own else ""
            found[slot] = found[same] if same in found else kernels.bias_sq_norm(own)[0]
        return found

    def parts(saved: Saved, g: Tensor) -> tuple[Tensor, Tensor]:
        return rows(saved[1]), columns.gradients(rows(g))[1]

    shapes = {
        "weight_input": Shape(positions, x.shape[-1], width),
        "weight_hidden": Shape(positions, previous.shape[-1], width),
    }
    inputs = x.shape[-1] + previous.shape[-1]
    shape = Shape(positions, inputs, output.shape[-1])
    joint = Joint("outer", "weight_hidden", parts)
    return Rule(_SLOTS, (x, previous), sq_norms, shape, 1, joint, shapes)


@torch.overrides.wrap_torch_function(_given)
def recurrent_projection(input: Tensor, weight: Tensor, output: Tensor) -> Tensor:
    """`F.linear`. `output` has the shape of what it gives."""
    return F.linear(input, weight)


def _unread_projection(input: Tensor, weight: Tensor, output: Tensor) -> Tensor:
    return output if is_frozen(weight) else F.linear(input, weight)


OPERATIONS: dict[Callable[..., Any], Operation] = {
    recurrent_gates: ruled(
        _rule,
        "input previous weight_input weight_hidden bias_input bias_hidden output",
        form=_unread,
    ),
    recurrent_projection: ruled(linear.make_rule, "input weight output", form=_unread_projection),
}
