"""Back through all steps of a recurrence: one matrix product a step for samples and cotangents."""

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor

from fastgradnorm._operations.recurrences import GRU, LSTM, RNN, ReluRNN, Scan


def pull(scan: Scan, g: Tensor, g_cell: Tensor | None) -> list[Tensor | None]:
    """Pulls gradients back, of L samples and K cotangents.

    Args:
        scan: The steps, once `run` was called.
        g: At their outputs, `[L, K, T, B, P]`.
        g_cell: At the last cell state `[L, K, B, H]`, if it was used.

    Returns:
        Gradients at the gates `[L, K, T, B, (gates + own) * H]`: those that are sums of both
        shares, then the others' at the input's share, then at the hidden state's. At what a
        projection gave `[L, K, T, B, P]`, or None, and at the first states `[L, K, B, H]`.
    """
    pulling = _PULLS[type(scan)](scan, g, g_cell)
    steps = g.to(scan.states[0].dtype).movedim(2, 0).flatten(1, 3).unbind(0)
    first, *others = order = scan.order(len(steps))[::-1]
    pulling.hidden.copy_(steps[first])
    for t, before in zip(order, others, strict=False):
        pulling.step(t, steps[before])
    pulling.step(order[-1], pulling.nothing)
    return pulling.pulled()


class _Pull:
    """Back through a scan's steps, from the last to the first.

    Slopes are of `[L, 1, B, ...]` samples, gradients of `[L, K, B, ...]`; each tensor of one row
    after the other where it is multiplied. Gradients at the gates of one cotangent take the place
    of the slopes they are made from: what is in the processor's cache already is written fastest.

    Attributes:
        hidden: The gradient at the output of the step that is next, `[L * K * B, P]`.
        nothing: A zero.
    """

    def __init__(self, scan: Scan, g: Tensor, g_cell: Tensor | None) -> None:
        samples, cotangents, steps, batch, size = g.shape
        self._lead, self._count = (samples, cotangents, batch), samples * cotangents * batch
        self._weights, self._narrow, self._back = scan.weights, scan.narrow, scan.weights.hidden.mT
        self._units = len(scan.weights.hidden) // scan.gates
        self.nothing = scan.states[0].new_zeros(())
        self.hidden = scan.states[0].new_empty(self._count, size)
        self._by_unit = self.hidden.view(*self._lead, size)
        made = [s.unflatten(1, (samples, batch)).unsqueeze(2) for s in scan.slopes()]
        self._slopes, *self._others = made
        width = self._slopes.shape[-1]
        self._gates = self._slopes if cotangents == 1 else self._room(steps, width)
        # Views of all steps, made at once: making each costs as much as an operation on it.
        self._rows = self._gates.flatten(1, 3).unbind(0)
        self._add = kernels.adding(self.hidden, self._rows[0], self._back, self.hidden)

    def _room(self, steps: int, width: int) -> Tensor:
        """For what steps write, `[T, L, K, B, width]`, of each sample together where that can be.

        A step's rows are a matrix then, with gaps between them.
        """
        samples, cotangents, batch = self._lead
        if batch > 1:
            return self.hidden.new_empty(steps, *self._lead, width)
        return self.hidden.new_empty(samples, cotangents, steps, batch, width).movedim(2, 0)

    def _by_sample(self, steps: Tensor) -> Tensor:
        return steps.movedim(0, 2).contiguous().to(self._narrow)

    def step(self, t: int, before: Tensor) -> None:
        """Step `t`, before whose output's there is the gradient `before` from elsewhere."""
        raise NotImplementedError

    def pulled(self) -> list[Tensor | None]:
        """What `pull` returns, when all steps are done."""
        return [self._by_sample(self._gates), None, self._by_unit]


class _PullLSTM(_Pull):
    def __init__(self, scan: Scan, g: Tensor, g_cell: Tensor | None) -> None:
        super().__init__(scan, g, g_cell)
        zeros = self.hidden.new_zeros(*self._lead, self._units)
        self._cell = zeros if g_cell is None else zeros.add_(g_cell)
        self._cell_of_gates = self._cell.unsqueeze(-2)
        through, kept = self._others
        at, by = (each.unflatten(-1, (4, -1)) for each in (self._gates, self._slopes))
        self._at = at[..., :3, :].unbind(0), at[..., 3, :].unbind(0)
        self._by = by[..., :3, :].unbind(0), by[..., 3, :].unbind(0)
        self._through, self._kept = through.unbind(0), kept.unbind(0)
        self._projected = None
        if self._weights.projection is not None:
            self._projected = self._room(len(through), g.shape[-1])
            self._made = self.hidden.new_empty(self._count, self._units)

    def step(self, t: int, before: Tensor) -> None:
        hidden = self._by_unit
        if self._projected is not None and self._weights.projection is not None:
            self._projected[t] = hidden
            back = self._weights.projection.mT
            kernels.add_linear(self.nothing, self.hidden, back, self._made)
            hidden = self._made.view(*self._lead, -1)
        self._cell.addcmul_(hidden, self._through[t])
        torch.mul(self._cell_of_gates, self._by[0][t], out=self._at[0][t])
        torch.mul(hidden, self._by[1][t], out=self._at[1][t])
        self._cell.mul_(self._kept[t])
        self._add(before, self._rows[t], self.hidden)

    def pulled(self) -> list[Tensor | None]:
        gates, _, hidden = super().pulled()
        projected = None if self._projected is None else self._by_sample(self._projected)
        return [gates, projected, hidden, self._cell]


class _PullGRU(_Pull):
    def __init__(self, scan: Scan, g: Tensor, g_cell: Tensor | None) -> None:
        super().__init__(scan, g, g_cell)
        size = self._units
        self._at = self._gates.unflatten(-1, (4, -1)).unbind(0)
        self._by = self._slopes.unflatten(-1, (4, -1)).unbind(0)
        self._kept = self._others[0].unbind(0)
        self._of_gates = self._by_unit.unsqueeze(-2)
        # In two parts: the input's share stands between them.
        backs = self._back.split([2 * size, size], 1)
        both, _, last = self._gates.split([2 * size, size, size], -1)
        self._parts = [part.flatten(1, 3).unbind(0) for part in (both, last)]
        self._adds = [
            kernels.adding(self.hidden, rows[0], weight, self.hidden)
            for rows, weight in zip(self._parts, backs, strict=True)
        ]

    def step(self, t: int, before: Tensor) -> None:
        torch.mul(self._of_gates, self._by[t], out=self._at[t])
        self._by_unit.mul_(self._kept[t])
        self.hidden.add_(before)
        for rows, add in zip(self._parts, self._adds, strict=True):
            add(self.hidden, rows[t], self.hidden)


class _PullRNN(_Pull):
    def step(self, t: int, before: Tensor) -> None:
        torch.mul(self._by_unit, self._slopes[t], out=self._gates[t])
        self._add(before, self._rows[t], self.hidden)


_PULLS: dict[type[Scan], type[_Pull]] = {
    LSTM: _PullLSTM,
    GRU: _PullGRU,
    RNN: _PullRNN,
    ReluRNN: _PullRNN,
}
