"""Recurrences written out: all steps of one layer in one direction, on rows of all samples.

A step is one matrix product and what makes states of it. What a pull-back multiplies by depends on
the sample alone, and is made for all steps and cotangents together.
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
    """The states of all steps.

    Args:
        states: The first hidden state `[R, P]`, of LSTMs also the first cell state `[R, H]`.
        weights: Of the hidden state's share of the gates.
        backwards: Whether the last step comes first.
        narrow: The dtype of products.

    Attributes:
        gates: Of a unit.
        own: How many of them, the last, are made otherwise of the input's share and of the other.
        outputs: Hidden states `[T, R, P]`, once `run` was called.
        projected: What was projected to these, `[T, R, H]`, if anything was.
        cell: The last cell state `[R, H]` of LSTMs, else None.
        kept: What else `slopes` is made of, no two in the same memory.
    """

    gates: int
    own: int = 0
    outputs: Tensor
    projected: Tensor | None = None
    cell: Tensor | None = None
    kept: tuple[Tensor, ...] = ()

    def __init__(
        self, states: tuple[Tensor, ...], weights: Weights, backwards: bool, narrow: torch.dtype
    ) -> None:
        dtype = torch.promote_types(narrow, states[0].dtype)
        self.states = tuple(state.to(dtype) for state in states)
        self.weights, self.backwards, self.narrow = weights, backwards, narrow

    def order(self, steps: int) -> range:
        """In which so many steps are taken."""
        return range(steps - 1, -1, -1) if self.backwards else range(steps)

    def run(self, x: Tensor) -> None:
        """Takes all steps, from the input's share of the gates `[T, R, gates * H]` for R rows.

        Args:
            x: That share, with `shared_bias`.
        """
        self.outputs = self.states[0].new_empty(len(x), *self.states[0].shape)
        self._run(x)

    @classmethod
    def shared_bias(cls, weights: Weights) -> Tensor | None:
        """Both biases of the gates that are sums of both shares, the input's alone of others."""
        bias, other = weights.input_bias, weights.hidden_bias
        if other is None:
            return bias
        own = cls.own * len(other) // cls.gates
        other = torch.cat([other[:-own], torch.zeros_like(other[-own:])]) if own else other
        return other if bias is None else bias + other

    def _in_order(self, *tensors: Tensor) -> "zip[tuple[Tensor, ...]]":
        """Each step's part of tensors `[T, ...]`."""
        # Views of all steps, made at once: making each costs as much as an operation on it.
        parts = [tensor.unbind(0) for tensor in tensors]
        return zip(*(part[::-1] if self.backwards else part for part in parts), strict=True)

    def _run(self, x: Tensor) -> None:
        """Makes what is made."""
        raise NotImplementedError

    def previous(self, first: Tensor, states: Tensor, dim: int = 0) -> Tensor:
        """What each step has begun with, of states after each step along a dimension."""
        first, others = first.unsqueeze(dim), states.shape[dim] - 1
        kept = states.narrow(dim, 1 if self.backwards else 0, others)
        return torch.cat([kept, first] if self.backwards else [first, kept], dim)

    def slopes(self) -> tuple[Tensor, ...]:
        """What a pull-back multiplies by, each `[T, R, ...]`, new tensors of each call.

        Gradients at the gates, laid out as those, are what comes first times one of a unit.
        """
        raise NotImplementedError


class LSTM(Scan):
    """Gates i, f, g, o: `c' = f c + i g`, `h' = o tanh(c')`."""

    gates = 4

    def _run(self, x: Tensor) -> None:
        steps, rows, width = x.shape
        size = width // 4
        made, projection = self.outputs, self.weights.projection
        if projection is not None:
            self.projected = made = self.outputs.new_empty(steps, rows, size)
        activated = self.outputs.new_empty(x.shape)
        states = self.outputs.new_empty(2, steps, rows, size)
        self.kept = activated, states
        nothing = self.outputs.new_zeros(())
        hidden, cell = self.states
        parts = activated[..., : 2 * size], *activated.chunk(4, -1)
        views = x, activated, *parts, *states, made, self.outputs
        add = kernels.adding(x[0], hidden, self.weights.hidden, activated[0])
        for step in self._in_order(*views):
            share, gates, i_f, i, f, g, o, cells, tanh, h, output = step
            add(share, hidden, gates)
            i_f.sigmoid_()
            g.tanh_()
            o.sigmoid_()
            cell = torch.mul(f, cell, out=cells).addcmul_(i, g)
            hidden = torch.mul(o, torch.tanh(cell, out=tanh), out=h)
            if projection is not None:
                hidden = kernels.add_linear(nothing, h, projection, output)
        self.cell = cell.clone()

    def slopes(self) -> tuple[Tensor, ...]:
        act, (cells, tanh) = self.kept
        i, f, g, o = act.chunk(4, -1)
        slope = torch.addcmul(act, act, act, value=-1)  # of the sigmoids
        at_i, at_f, at_g, at_o = slope.chunk(4, -1)
        at_i.mul_(g)
        before = slice(1, None) if self.backwards else slice(None, -1)
        after = slice(None, -1) if self.backwards else slice(1, None)
        at_f[after].mul_(cells[before])
        at_f[-1 if self.backwards else 0].mul_(self.states[1])
        one = act.new_ones(())
        torch.addcmul(one, g, g, value=-1, out=at_g).mul_(i)
        at_o.mul_(tanh)
        return slope, torch.addcmul(one, tanh, tanh, value=-1).mul_(o), f


class GRU(Scan):
    """Gates r, z, n: `n = tanh(x_n + r h_n)`, `h' = n + z (h - n)`."""

    gates, own = 3, 1

    def _run(self, x: Tensor) -> None:
        size = x.shape[-1] // 3
        activated = self.outputs.new_empty(x.shape)
        acted_on = torch.empty_like(self.outputs)  # by the gate r
        self.kept = activated, acted_on
        by_both, by_last = self.weights.hidden.split([2 * size, size])
        bias = self.weights.hidden_bias
        bias = x.new_zeros(size) if bias is None else bias[2 * size :]
        shares = x.split([2 * size, size], -1)
        both, n = activated.split([2 * size, size], -1)
        views = *shares, both, n, *activated.chunk(3, -1)[:2], acted_on, self.outputs
        hidden = self.states[0]
        add = kernels.adding(shares[0][0], hidden, by_both, both[0])
        add_last = kernels.adding(bias, hidden, by_last, acted_on[0])
        for x_both, x_last, gates, new, r, z, reset, output in self._in_order(*views):
            add(x_both, hidden, gates).sigmoid_()
            add_last(bias, hidden, reset)
            torch.addcmul(x_last, r, reset, out=new).tanh_()
            hidden = torch.lerp(new, hidden, z, out=output)

    def slopes(self) -> tuple[Tensor, ...]:
        activated, acted_on = self.kept
        r, z, n = activated.chunk(3, -1)
        before = self.previous(self.states[0], self.outputs)
        slope = n.new_empty(*n.shape[:2], 4 * n.shape[-1])
        at_r, at_z, at_n, at_hidden_n = slope.chunk(4, -1)
        both = activated[..., : 2 * n.shape[-1]]
        torch.addcmul(both, both, both, value=-1, out=slope[..., : both.shape[-1]])
        torch.addcmul(n.new_ones(()), n, n, value=-1, out=at_n).mul_(1 - z)
        at_r.mul_(acted_on).mul_(at_n)
        at_z.mul_(before.sub_(n))
        torch.mul(at_n, r, out=at_hidden_n)
        return slope, z


class RNN(Scan):
    """`h' = tanh(gates)`."""

    gates = 1

    def _run(self, x: Tensor) -> None:
        hidden = self.states[0]
        add = kernels.adding(x[0], hidden, self.weights.hidden, self.outputs[0])
        for share, output in self._in_order(x, self.outputs):
            hidden = self._activate(add(share, hidden, output))

    def _activate(self, gates: Tensor) -> Tensor:
        return gates.tanh_()

    def slopes(self) -> tuple[Tensor, ...]:
        one = self.outputs.new_ones(())
        return (torch.addcmul(one, self.outputs, self.outputs, value=-1),)


class ReluRNN(RNN):
    """`h' = relu(gates)`."""

    def _activate(self, gates: Tensor) -> Tensor:
        return gates.relu_()

    def slopes(self) -> tuple[Tensor, ...]:
        return ((self.outputs > 0).to(self.outputs.dtype),)


SCANS: dict[str, type[Scan]] = {"lstm": LSTM, "gru": GRU, "rnn_tanh": RNN, "rnn_relu": ReluRNN}
