"""Activations: on processors, slopes that are found once for all cotangents.

PyTorch's pull-back of an activation finds its slope anew for each cotangent, from exponentials or
error functions, where a multiplication would do. What is kept takes no more memory: the slope, in
place of the input.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from fastgradnorm_kernels.levels import aligned, outside, wrapped
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.operation import Operation
from fastgradnorm._operations.single_level import SingleLevel, is_differentiated, unwrap, wrap

# Numbers of a sample from which on it pays, whatever is beside it: a score is the same in any
# company. Of 64 samples with so many, ten pull-backs of a GELU take 6 ms less, of one .1 ms; what
# Python does here takes .25 ms, and nothing where passes are traced.
_LEAST = 1 << 13


# Narrow numbers have few digits. A slope that is the same at many of them, as SELU's 1.05 or a
# sigmoid's near 1, is rounded in the same way at each, layer after layer.
_NARROW, _ROUNDED = (torch.bfloat16, torch.float16), (F.logsigmoid, F.selu, F.softplus)
# Which argument behind the input asks for a change in place: by whatever is true.
_IN_PLACE = {F.hardswish: 0, F.selu: 0, F.silu: 0, F.celu: 1, F.elu: 1}


def activation(function: Callable[..., Tensor], input: Tensor, *args: Any, **named: Any) -> Tensor:
    """`function`, of which each value is of one number alone."""
    place = _IN_PLACE.get(function, len(args))
    usual = not any((named.get("inplace"), *args[place : place + 1]))
    # Another tensor may have a gradient.
    usual = usual and not any(isinstance(o, Tensor) for o in (*args, *named.values()))
    usual = usual and not (input.dtype in _NARROW and function in _ROUNDED)
    output = sloped(lambda x: function(x, *args, **named), input) if usual else None
    return function(input, *args, **named) if output is None else output


def sloped(function: Callable[[Tensor], Tensor], input: Tensor) -> Tensor | None:
    """`function` with its slope at once; None where nothing is pulled back or it would not pay."""
    usual = input.device.type == "cpu" and input.is_floating_point() and input.requires_grad
    if not usual or input.numel() < _LEAST or not is_differentiated(input):
        return None
    output: Tensor = _Sloped.within(input, function)
    return output


class _Sloped(SingleLevel):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        found = aligned(unwrap(x))
        assert found is not None and found.tensors[0] is not None
        x = found.tensors[0]
        with outside(), torch.enable_grad():
            # Within transforms nothing can be asked to have a gradient that was not made so.
            zero = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True)
            given = x.detach() + zero
            output = function(given)
            ones = torch.ones((), dtype=output.dtype, device=x.device).expand_as(output)
            (slope,) = torch.autograd.grad(output, given, ones)
            output = output.detach()
        ctx.save_for_backward(wrapped(slope, found.levels))
        return wrap(wrapped(output, found.levels))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return g * slope, None


# Whose slope takes longer than to multiply by it.
_FUNCTIONS = (
    *(F.celu, F.elu, F.gelu, F.hardswish, F.logsigmoid, F.selu, F.silu, F.softplus),
    *(F.softsign, F.tanhshrink),
)
OPERATIONS: dict[Callable[..., Any], Operation] = {
    function: Operation(form=partial(activation, function), several=True) for function in _FUNCTIONS
}
