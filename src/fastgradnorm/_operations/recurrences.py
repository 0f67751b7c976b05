"""Recurrences written out: all steps of one layer in one direction, on rows of all samples.

A step is one matrix product and what makes states of it. What a pull-back multiplies by depends on
the sample alone, and is made once, for all steps and cotangents together.
"""

from typing import NamedTuple

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor


class Weights(NamedTuple):
    """Of one layer in one direction, as PyTorch has them.

    Attributes:
        input: `[gates * H, I]`, of the input.
        hidden: `[gates * H, P]`, of the hidden state.
        input_bias: Added to the one product, or None.
        hidden_bias: Added to the other.
        projection: `[P, H]`, of LSTMs that have one, else None.
    """

    input: Tensor
    hidden: Tensor
    input_bias: Tensor | None
    hidden_bias: Tensor | None
    projection: Tensor | None


class Scan:
    """The states of all steps, from the input's share of the gates.

    Args:
        x: That share, `[T, R, gates * H]` for R rows.
        states: The first hidden state `[R, P]`, of LSTMs also the first cell state `[R, H]`.
        weights: Of the hidden state's share.
        backwards: Whether the last step comes first.

    Attributes:
        gates: Of a unit.
        own: How many of them, the last, are made otherwise of the input's share and of the other.
        outputs: Hidden states `[T, R, P]`.
        projected: What was projected to these, `[T, R, H]`, if anything was.
        cell: The last cell state `[R, H]` of LSTMs, else None.
        narrow: The dtype of products.
        factors: Of the pull-back, each `[T, R, ...]`, once `prepare` was called.
    """

    gates: int
    own: int = 0

    def __init__(
        self, x: Tensor, states: tuple[Tensor, ...], weights: Weights, backwards: bool
    ) -> None:
        dtype = torch.promote_types(x.dtype, states[0].dtype)
        self.states = tuple(state.to(dtype) for state in states)
        self.weights, self.narrow, self.backwards = weights, x.dtype, backwards
        self.order = range(len(x) - 1, -1, -1) if backwards else range(len(x))
        self.outputs = self.states[0].new_empty(len(x), *states[0].shape)
        self.projected: Tensor | None = None
        self.cell: Tensor | None = None
        self.factors: tuple[Tensor, ...] = ()
        self._begin(x)
        hidden = self.states[0]
        for t in self.order:
            product = self._product(hidden, weights.hidden, weights.hidden_bias)
            hidden = self._step(t, x[t], product, hidden)

    def previous(self, first: Tensor, states: Tensor) -> Tensor:
        """What each step has begun with, of states after each step `[T, R, ...]`."""
        parts = [states[1:], first[None]] if self.backwards else [first[None], states[:-1]]
        return torch.cat(parts)

    def _product(self, rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return kernels.linear(rows.to(self.narrow), weight, bias)

    def _begin(self, x: Tensor) -> None:
        """Makes room for what steps write."""

    def _step(self, t: int, x: Tensor, product: Tensor, hidden: Tensor) -> Tensor:
        """The next hidden state, also written to `outputs`."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Makes `factors`."""
        raise NotImplementedError


class LSTM(Scan):
    """Gates i, f, g, o: `c' = f c + i g`, `h' = o tanh(c')`."""

    gates = 4

    def _begin(self, x: Tensor) -> None:
        steps, rows, width = x.shape
        self._gates = self.outputs.new_empty(x.shape)
        self._cells, self._tanh = self.outputs.new_empty(2, steps, rows, width // 4)
        self._made = self.outputs
        if self.weights.projection is not None:
            self.projected = self._made = torch.empty_like(self._tanh)
        self.cell = self.states[1]

    def _step(self, t: int, x: Tensor, product: Tensor, hidden: Tensor) -> Tensor:
        gates, size = torch.add(x, product, out=self._gates[t]), self._tanh.shape[-1]
        gates[:, : 2 * size].sigmoid_()
        gates[:, 2 * size : 3 * size].tanh_()
        gates[:, 3 * size :].sigmoid_()
        i, f, g, o = gates.chunk(4, -1)
        assert self.cell is not None
        self.cell = torch.mul(f, self.cell, out=self._cells[t]).addcmul_(i, g)
        made = torch.mul(o, torch.tanh(self.cell, out=self._tanh[t]), out=self._made[t])
        if self.weights.projection is None:
            return made
        return self.outputs[t].copy_(self._product(made, self.weights.projection))

    def prepare(self) -> None:
        i, f, g, o = self._gates.chunk(4, -1)
        before = self.previous(self.states[1], self._cells)
        by_cell = torch.stack([g * (i - i * i), before * (f - f * f), i * (1 - g * g)], -2)
        by_hidden, through = self._tanh * (o - o * o), o * (1 - self._tanh.square())
        self.factors = by_cell, by_hidden, through, f.contiguous()


class GRU(Scan):
    """Gates r, z, n: `n = tanh(x_n + r h_n)`, `h' = n + z (h - n)`."""

    gates, own = 3, 1

    def _begin(self, x: Tensor) -> None:
        self._gates = self.outputs.new_empty(x.shape)
        self._reset = torch.empty_like(self.outputs)  # what the gate r acts on

    def _step(self, t: int, x: Tensor, product: Tensor, hidden: Tensor) -> Tensor:
        size = hidden.shape[-1]
        both, last = slice(2 * size), slice(2 * size, None)
        gates = self._gates[t]
        r, z = torch.add(x[:, both], product[:, both], out=gates[:, both]).sigmoid_().chunk(2, -1)
        n = gates[:, last].copy_(x[:, last])
        n.addcmul_(r, self._reset[t].copy_(product[:, last])).tanh_()
        return torch.lerp(n, hidden, z, out=self.outputs[t])

    def prepare(self) -> None:
        r, z, n = self._gates.chunk(3, -1)
        before = self.previous(self.states[0], self.outputs)
        by_n = (1 - z) * (1 - n * n)
        by_r, by_z = by_n * self._reset * (r - r * r), (before - n) * (z - z * z)
        self.factors = torch.stack([by_r, by_z, by_n * r], -2), by_n, z.contiguous()


class RNN(Scan):
    """`h' = tanh(gates)`."""

    gates = 1

    def _step(self, t: int, x: Tensor, product: Tensor, hidden: Tensor) -> Tensor:
        return torch.add(x, product, out=self.outputs[t]).tanh_()

    def prepare(self) -> None:
        self.factors = (1 - self.outputs.square(),)


class ReluRNN(RNN):
    """`h' = relu(gates)`."""

    def _step(self, t: int, x: Tensor, product: Tensor, hidden: Tensor) -> Tensor:
        return torch.add(x, product, out=self.outputs[t]).relu_()

    def prepare(self) -> None:
        self.factors = ((self.outputs > 0).to(self.outputs.dtype),)


SCANS: dict[str, type[Scan]] = {"lstm": LSTM, "gru": GRU, "rnn_tanh": RNN, "rnn_relu": ReluRNN}
