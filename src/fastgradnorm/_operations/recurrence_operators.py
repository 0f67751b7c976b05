"""Recurrences as one operator each, for passes that are traced.

A trace is a list of operators: of a recurrence it would hold those of each step, and a replay would
call all of them one by one. These are called instead where a pass is traced.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from fastgradnorm_kernels.deferred import is_deferred
from torch import Tensor

from fastgradnorm._operations.recurrence_pulls import pull
from fastgradnorm._operations.recurrences import SCANS, Scan, Weights

_KINDS = {scan: kind for kind, scan in SCANS.items()}
# What these operators do, by their names: calling them costs more than a short recurrence's step.
DIRECTLY: dict[str, Callable[..., Any]] = {}


def _operator(name: str) -> Callable[[Callable[..., Any]], Any]:
    def decorate(function: Callable[..., Any]) -> Any:
        DIRECTLY[f"{name.replace('::', '.')}.default"] = function
        return torch.library.custom_op(name, function, mutates_args=())

    return decorate


def scanned(
    kind: str, x: Tensor, states: tuple[Tensor, ...], weights: Weights, backwards: bool
) -> Scan:
    """A `Scan` of a kind of `SCANS` that was run on `x`; plain tensors, without a graph."""
    scan = SCANS[kind](states, weights, backwards, x.dtype)
    if not is_deferred():
        scan.run(x)
        return scan
    own = weights.hidden, weights.hidden_bias, weights.projection
    scan.outputs, *made = _run(kind, x, [*states], *own, backwards)
    scan.cell = made.pop(0) if kind == "lstm" else None
    scan.projected = None if weights.projection is None else made.pop(0)
    scan.kept = tuple(made)
    return scan


@_operator("fastgradnorm::recurrence")
def _run(
    kind: str,
    x: Tensor,
    states: Sequence[Tensor],
    hidden: Tensor,
    bias: Tensor | None,
    projection: Tensor | None,
    backwards: bool,
) -> list[Tensor]:
    weights = Weights(hidden, hidden, None, bias, projection)
    scan = SCANS[kind](tuple(states), weights, backwards, x.dtype)
    scan.run(x)
    made = scan.outputs, scan.cell, scan.projected, *scan.kept
    return [each for each in made if each is not None]


def pulled(scan: Scan, g: Tensor, g_cell: Tensor | None) -> list[Tensor | None]:
    """As `pull`."""
    if not is_deferred():
        return pull(scan, g, g_cell)
    weights = scan.weights.hidden, scan.weights.projection
    made = [*scan.states], scan.outputs, [*scan.kept]
    found = _pull(_KINDS[type(scan)], *made, *weights, scan.backwards, scan.narrow, g, g_cell)
    if scan.weights.projection is None:
        found.insert(1, cast(Tensor, None))
    return [*found]


@_operator("fastgradnorm::recurrence_pull")
def _pull(
    kind: str,
    states: Sequence[Tensor],
    outputs: Tensor,
    kept: Sequence[Tensor],
    hidden: Tensor,
    projection: Tensor | None,
    backwards: bool,
    narrow: torch.dtype,
    g: Tensor,
    g_cell: Tensor | None,
) -> list[Tensor]:
    weights = Weights(hidden, hidden, None, None, projection)
    scan = SCANS[kind](tuple(states), weights, backwards, narrow)
    scan.outputs, scan.kept = outputs, tuple(kept)
    return [each for each in pull(scan, g, g_cell) if each is not None]


def layer_as_operator(kind: str, *args: Any) -> Callable[..., Any] | None:
    """PyTorch's recurrent layer of a kind, where it is one operator; None where it is as it is.

    Args:
        kind: `"lstm"`, `"gru"`, `"rnn_tanh"` or `"rnn_relu"`.
        args: Of a call of it.
    """
    *_, dropout, training, _, _ = args
    if not is_deferred() or (training and dropout):
        return None

    def called(x: Tensor, start: Any, flat: Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
        states = [*start] if isinstance(start, (tuple, list)) else [start]
        return tuple(_layer(kind, x, states, [*flat], *options))

    return called


@_operator("fastgradnorm::recurrent_layer")
def _layer(
    kind: str,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    start = tuple(states) if kind == "lstm" else states[0]
    options = has_biases, layers, dropout, training, bidirectional, batch_first
    return [*getattr(torch, kind)(x, start, weights, *options)]
