"""Recurrences written out: all steps of one layer in one direction, on rows of all samples.

A step is one matrix product and what makes states of it. What a pull-back multiplies by depends on
the sample alone, and is made once, for all steps and cotangents together.
"""

from typing import NamedTuple, cast

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
        hidden, shares = self.states[0], x.unbind(0)
        for t in self.order:
            product = self._product(hidden, weights.hidden, weights.hidden_bias)
            hidden = self._step(t, shares[t], product, hidden)

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
        size = width // 4
        self._made = self.outputs
        if self.weights.projection is not None:
            self.projected = self._made = self.outputs.new_empty(steps, rows, size)
        self._activated = self.outputs.new_empty(x.shape)
        self._cells, self._tanh = self.outputs.new_empty(2, steps, rows, size)
        self.cell = self.states[1]
        # Views of all steps, made at once: making each costs as much as an operation on it.
        parts = self._activated.split([2 * size, size, size], -1)
        views = (*parts, *self._activated.chunk(4, -1), self._cells, self._tanh, self._made)
        self._steps = [view.unbind(0) for view in (self._activated, *views)]

    def _step(self, t: int, x: Tensor, product: Tensor, hidden: Tensor) -> Tensor:
        gates, i_f, middle, last, i, f, g, o, cell, tanh, made = (v[t] for v in self._steps)
        torch.add(x, product, out=gates)
        i_f.sigmoid_()
        middle.tanh_()
        last.sigmoid_()
        self.cell = torch.mul(f, cast(Tensor, self.cell), out=cell).addcmul_(i, g)
        torch.mul(o, torch.tanh(cell, out=tanh), out=made)
        if self.weights.projection is None:
            return cast(Tensor, made)
        return self.outputs[t].copy_(self._product(made, self.weights.projection))

    def prepare(self) -> None:
        i, _, g, o = self._activated.chunk(4, -1)
        slope_i, slope_f, _, slope_o = self._slope().chunk(4, -1)
        before = self.previous(self.states[1], self._cells)
        by_cell = before.new_empty(*before.shape[:2], 3, before.shape[-1])
        torch.mul(g, slope_i, out=by_cell[:, :, 0])
        torch.mul(before, slope_f, out=by_cell[:, :, 1])
        torch.mul(i, 1 - g * g, out=by_cell[:, :, 2])
        through = o * (1 - self._tanh * self._tanh)
        kept = self._activated.chunk(4, -1)[1]
        self.factors = by_cell, self._tanh * slope_o, through, kept.contiguous()

    def _slope(self) -> Tensor:
        """Of the sigmoids."""
        return torch.addcmul(self._activated, self._activated, self._activated, value=-1)


class GRU(Scan):
    """Gates r, z, n: `n = tanh(x_n + r h_n)`, `h' = n + z (h - n)`."""

    gates, own = 3, 1

    def _begin(self, x: Tensor) -> None:
        size = x.shape[-1] // 3
        self._activated = self.outputs.new_empty(x.shape)
        self._reset = torch.empty_like(self.outputs)  # what the gate r acts on
        parts = self._activated.split([2 * size, size], -1)
        shares = x.split([2 * size, size], -1)
        views = (*parts, *self._activated.chunk(3, -1)[:2], self._reset)
        self._steps = [view.unbind(0) for view in (*shares, *views)]

    def _step(self, t: int, x: Tensor, product: Tensor, hidden: Tensor) -> Tensor:
        x_both, x_last, both, n, r, z, reset = (view[t] for view in self._steps)
        product_both, last = product.split([both.shape[-1], n.shape[-1]], -1)
        torch.add(x_both, product_both, out=both).sigmoid_()
        torch.addcmul(x_last, r, reset.copy_(last), out=n).tanh_()
        return torch.lerp(n, hidden, z, out=self.outputs[t])

    def prepare(self) -> None:
        r, z, n = self._activated.chunk(3, -1)
        before = self.previous(self.states[0], self.outputs)
        by_n = (1 - z) * (1 - n * n)
        by_hidden = before.new_empty(*before.shape[:2], 3, before.shape[-1])
        torch.mul(by_n * self._reset, r - r * r, out=by_hidden[:, :, 0])
        torch.mul(before - n, z - z * z, out=by_hidden[:, :, 1])
        torch.mul(by_n, r, out=by_hidden[:, :, 2])
        self.factors = by_hidden, by_n, z.contiguous()


class RNN(Scan):
    """`h' = tanh(gates)`."""

    gates = 1

    def _step(self, t: int, x: Tensor, product: Tensor, hidden: Tensor) -> Tensor:
        return torch.add(x, product, out=self.outputs[t]).tanh_()

    def prepare(self) -> None:
        self.factors = (1 - self.outputs * self.outputs,)


class ReluRNN(RNN):
    """`h' = relu(gates)`."""

    def _step(self, t: int, x: Tensor, product: Tensor, hidden: Tensor) -> Tensor:
        return torch.add(x, product, out=self.outputs[t]).relu_()

    def prepare(self) -> None:
        self.factors = ((self.outputs > 0).to(self.outputs.dtype),)


SCANS: dict[str, type[Scan]] = {"lstm": LSTM, "gru": GRU, "rnn_tanh": RNN, "rnn_relu": ReluRNN}
