"""Operations that hide their parameters or have no vmap rule, written with others that do not.

Each takes the arguments of the operation it stands for and gives the same values.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._errors import UnsupportedModelError


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """`torch._weight_norm`, whose fused backward has no vmap rule."""
    others = [d for d in range(v.dim()) if d != dim]
    norm: Tensor = torch.linalg.vector_norm(v, dim=others, keepdim=True)
    return v * (g / norm)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """`F.prelu`, whose gradients under vmap torch 2.13 gets wrong for batches."""
    shape = (1, -1) + (1,) * (input.dim() - 2) if weight.numel() > 1 else (1,)
    return torch.where(input > 0, input, weight.reshape(shape) * input)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    """`torch.cdist`, whose gradients under vmap torch 2.13 gets wrong for batches."""
    difference = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    distance: Tensor = torch.linalg.vector_norm(difference, ord=p, dim=-1)
    return distance


def average_pool(input: Tensor, output_size: Any, *, dims: int) -> Tensor | None:
    """`F.adaptive_avg_pool` to one value a channel; None for other sizes.

    With the channels last in memory its backward pass has no vmap rule.
    """
    sizes = output_size if isinstance(output_size, (tuple, list)) else [output_size]
    if any(size != 1 for size in sizes):
        return None
    return input.mean(tuple(range(-dims, 0)), keepdim=True)


def set_masked(tensor: Tensor, index: Any, value: Any) -> Tensor | None:
    """`tensor[mask] = value` for one value, or one for each trailing dimension; else None."""
    if not isinstance(index, Tensor) or index.dtype != torch.bool:
        return None
    trailing = tensor.dim() - index.dim()
    if isinstance(value, Tensor) and value.dim() > trailing:
        return None
    mask = index.reshape(index.shape + (1,) * trailing)
    if not isinstance(value, Tensor):
        return tensor.masked_fill_(mask, value)
    return tensor.copy_(torch.where(mask, value.to(tensor.dtype), tensor))


def scatter_(tensor: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """`Tensor.scatter_`, of which only the form that is not in place has a vmap rule."""
    return tensor.copy_(tensor.scatter(dim, index, value))


def bilinear(x1: Tensor, x2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.bilinear` as a linear layer on the outer products of its inputs."""
    outer = (x1.unsqueeze(-1) * x2.unsqueeze(-2)).flatten(-2)
    return F.linear(outer, weight.flatten(1), bias)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """`F.embedding_bag` of ids `[B, T]`: looked up, then reduced."""
    if input.dim() != 2 or offsets is not None:
        raise UnsupportedModelError(
            "embedding bags with offsets join samples in one row of ids. Pass ids [N, T]."
        )
    rows = F.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq)
    keep = torch.ones_like(input, dtype=torch.bool)
    if padding_idx is not None:
        keep = input != (padding_idx if padding_idx >= 0 else padding_idx + len(weight))
    if mode == "max":
        bags = rows.masked_fill(~keep[..., None], -torch.inf).amax(1)
        return torch.where(keep.any(1, keepdim=True), bags, torch.zeros_like(bags))
    scale = keep.to(rows.dtype)
    if per_sample_weights is not None:
        scale = scale * per_sample_weights
    bags = (rows * scale[..., None]).sum(1)
    return bags / keep.sum(1, keepdim=True).clamp_min(1) if mode == "mean" else bags


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
    """`torch.lstm`, `gru`, `rnn_tanh` and `rnn_relu` unrolled; None for packed sequences.

    The input's share of the gates is one linear layer over all positions, the hidden state's one
    linear layer reused at each: both have rules.
    """
    x, start, flat, has_biases, layers, _, _, bidirectional, *rest = args
    if not isinstance(has_biases, bool) or len(args) != 9:
        return None  # packed: the second argument is a tensor of batch sizes
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
            rows, state = _direction(_STEPS[kind], x, state, weights, has_biases, direction == 1)
            outputs.append(rows)
            final.append(state)
        x = torch.cat(outputs, -1)
    hidden = tuple(torch.stack([state[i] for state in final]) for i in range(len(states)))
    return (x.transpose(0, 1) if rest[0] else x, *hidden)


def _direction(
    step: Step,
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: Sequence[Tensor],
    has_biases: bool,
    backwards: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in one direction: outputs `[T, B, H]` and the last state."""
    w_input, w_hidden = weights[:2]
    b_input, b_hidden = weights[2:4] if has_biases else (None, None)
    projection = weights[-1] if len(weights) in (3, 5) else None
    gates = F.linear(x, w_input, b_input)
    order = range(len(x) - 1, -1, -1) if backwards else range(len(x))
    outputs: dict[int, Tensor] = {}
    for t in order:
        state = step(gates[t], F.linear(state[0], w_hidden, b_hidden), state)
        if projection is not None:
            state = (F.linear(state[0], projection), *state[1:])
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
