"""Recurrent layers and cells as linear layers, which have rules, and what is between them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from fastgradnorm_kernels.functorch import is_transforming
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations import recurrent_gates
from fastgradnorm._operations.folded_recurrences import recurrence, without_derivative
from fastgradnorm._operations.operation import Operation
from fastgradnorm._operations.packed import unpacked
from fastgradnorm._operations.recurrence_operators import layer_as_operator
from fastgradnorm._operations.recurrences import Weights


def lstm_cell(gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Hidden and cell state from gates `[B, 4H]`."""
    i, f, g, o = gates.chunk(4, -1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru_step(inputs: Tensor, hidden: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    r_x, z_x, n_x = inputs.chunk(3, -1)
    r_h, z_h, n_h = hidden.chunk(3, -1)
    z = (z_x + z_h).sigmoid()
    n = (n_x + (r_x + r_h).sigmoid() * n_h).tanh()
    return (n + z * (state[0] - n),)


Step = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]

_STEPS: dict[str, Step] = {
    "lstm": lambda x, h, state: lstm_cell(x + h, state),
    "gru": _gru_step,
    "rnn_tanh": lambda x, h, state: ((x + h).tanh(),),
    "rnn_relu": lambda x, h, state: ((x + h).relu(),),
}


def recurrent(kind: str, *args: Any) -> tuple[Tensor, ...] | None:
    """`torch.lstm`, `gru`, `rnn_tanh` and `rnn_relu`; None for packed ones of several lengths.

    The gates of all steps are one operation that has a rule, once the states are known.
    """
    if len(args) != 9:
        return None
    if not isinstance(args[3], bool):  # packed: the second argument is a tensor of batch sizes
        padded = unpacked(args) if is_transforming() else None
        if padded is None:
            return None
        rows, *states = getattr(torch, kind)(*padded)
        return (rows.flatten(0, 1), *states)
    x, start, flat, has_biases, layers, _, _, bidirectional, *rest = args
    traced = layer_as_operator(kind, *args)
    if not (torch.is_grad_enabled() or is_transforming()):
        # A plain pass without derivatives, of many samples.
        return None if traced is None else cast("tuple[Tensor, ...]", traced(*args))
    whole = without_derivative(traced or getattr(torch, kind), *args)
    if whole is not None:
        return whole
    states = start if isinstance(start, (tuple, list)) else (start,)
    x = x.transpose(0, 1) if rest[0] else x  # [T, B, I]
    directions = 2 if bidirectional else 1
    per_layer = len(flat) // (layers * directions)
    final: list[tuple[Tensor, ...]] = []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            weights = flat[index * per_layer : (index + 1) * per_layer]
            state = tuple(s[index] for s in states)
            rows, state = _direction(kind, x, state, weights, has_biases, direction == 1)
            outputs.append(rows)
            final.append(state)
        x = torch.cat(outputs, -1)
    hidden = tuple(torch.stack([state[i] for state in final]) for i in range(len(states)))
    return (x.transpose(0, 1) if rest[0] else x, *hidden)


def _direction(
    kind: str,
    x: Tensor,
    state: tuple[Tensor, ...],
    flat: Sequence[Tensor],
    has_biases: bool,
    backwards: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in one direction: outputs `[T, B, P]` and the last state."""
    w_input, w_hidden = flat[:2]
    b_input, b_hidden = flat[2:4] if has_biases else (None, None)
    projection = flat[-1] if len(flat) in (3, 5) else None
    weights = Weights(w_input, w_hidden, b_input, b_hidden, projection)
    found = recurrence(kind, x, state, weights, backwards)
    return found or _written_out(_STEPS[kind], x, state, weights, backwards)


def _written_out(
    step: Step, x: Tensor, state: tuple[Tensor, ...], weights: Weights, backwards: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The same step by step: linear layers that are reused, and what makes states of them."""
    gates = F.linear(x, weights.input, weights.input_bias)
    order = range(len(x) - 1, -1, -1) if backwards else range(len(x))
    outputs: dict[int, Tensor] = {}
    for t in order:
        state = step(gates[t], F.linear(state[0], weights.hidden, weights.hidden_bias), state)
        if weights.projection is not None:
            state = (F.linear(state[0], weights.projection), *state[1:])
        outputs[t] = state[0]
    return torch.stack([outputs[t] for t in range(len(x))]), state


def recurrent_cell(kind: str, *args: Any) -> Any:
    """`torch.lstm_cell`, `gru_cell`, `rnn_tanh_cell` and `rnn_relu_cell`."""
    x, start, w_input, w_hidden, *biases = args
    b_input, b_hidden = biases if len(biases) == 2 else (None, None)
    state = tuple(start) if isinstance(start, (tuple, list)) else (start,)
    made = F.linear(x, w_input, b_input), F.linear(state[0], w_hidden, b_hidden)
    new = _STEPS[kind](*made, state)
    return new if kind == "lstm" else new[0]


OPERATIONS: dict[Callable[..., Any], Operation] = {
    getattr(torch, name): Operation(opened=partial(opened, kind))
    for kind in _STEPS
    for name, opened in ((kind, recurrent), (f"{kind}_cell", recurrent_cell))
} | recurrent_gates.OPERATIONS
