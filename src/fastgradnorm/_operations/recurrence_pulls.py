"""Back through all steps of a recurrence: one matrix product a step for samples and cotangents."""

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor

from fastgradnorm._operations.recurrences import GRU, LSTM, RNN, ReluRNN, Scan


def pull(scan: Scan, g: Tensor, g_cell: Tensor | None) -> list[Tensor | None]:
    """Pulls gradients back, of L samples and K cotangents.

    Args:
        scan: The steps, once `prepare` was called.
        g: At their outputs, `[L, K, T, B, P]`.
        g_cell: At the last cell state `[L, K, B, H]`, if it was used.

    Returns:
        Gradients at the gates `[L, K, T, B, (gates + own) * H]`: those that are sums of both
        shares, then the others' at the input's share, then at the hidden state's. At what a
        projection gave `[L, K, T, B, P]`, or None, and at the first states `[L, K, B, H]`.
    """
    pulling = _PULLS[type(scan)](scan, g, g_cell)
    steps = g.unbind(2)
    for t in reversed(scan.order):
        pulling.step(t, steps[t])
    return pulling.pulled()


class _Pull:
    """Back through a scan's steps, from the last to the first.

    Factors are of `[L, 1, B, ...]` samples, gradients of `[L, K, B, ...]`.
    """

    def __init__(self, scan: Scan, g: Tensor, g_cell: Tensor | None) -> None:
        samples, cotangents, steps, self._batch, _ = g.shape
        self._lead = samples, cotangents, self._batch
        weights, self._narrow = scan.weights, scan.narrow
        self._back = weights.hidden.mT
        self._units = len(weights.hidden) // scan.gates
        width = (scan.gates + scan.own) * self._units
        shape = samples, cotangents, steps, self._batch, width
        self.gates = g.new_empty(shape, dtype=self._narrow)
        # Of one step: small enough to stay in the cache between what writes and what reads it.
        self._rows = scan.outputs.new_empty(samples * cotangents * self._batch, len(weights.hidden))
        self._gates = self._rows.view(*self._lead, scan.gates, self._units)
        # Views of all steps, made at once: making each costs as much as an operation on it.
        self._factors = [
            factor.unflatten(1, (samples, self._batch)).unsqueeze(2).unbind(0)
            for factor in scan.factors
        ]
        self._written = self._views(self.gates)
        self._carried: Tensor | None = None

    def _views(self, gates: Tensor) -> list[tuple[Tensor, ...]]:
        """Of what steps write of the gates' gradients."""
        return [gates.unflatten(-1, (-1, self._units)).unbind(2)]

    def _arriving(self, g: Tensor) -> Tensor:
        """The gradient at a step's output: its own, and what the step after it has left."""
        return g.to(self._gates.dtype) if self._carried is None else self._carried.add_(g)

    def _leave(self) -> Tensor:
        """What the gates' gradients are at the hidden state before the step."""
        return self._by(self._rows, self._back)

    def _by(self, rows: Tensor, weight: Tensor) -> Tensor:
        found = kernels.linear(rows.to(self._narrow), weight)
        return found.view(*self._lead, -1).to(self._gates.dtype)

    def step(self, t: int, g: Tensor) -> None:
        """Step `t`, at whose output there is `g` from elsewhere."""
        raise NotImplementedError

    def pulled(self) -> list[Tensor | None]:
        """What `pull` returns, when all steps are done."""
        return [self.gates, None, self._carried]


class _PullLSTM(_Pull):
    def __init__(self, scan: Scan, g: Tensor, g_cell: Tensor | None) -> None:
        super().__init__(scan, g, g_cell)
        zeros = self._gates.new_zeros(*self._lead, self._units)
        self._cell = zeros if g_cell is None else zeros.add_(g_cell)
        self._cell_of_gates = self._cell.unsqueeze(-2)
        self._by_cell, self._by_hidden = self._gates[..., :3, :], self._gates[..., 3, :]
        self._projection, self.projected = scan.weights.projection, None
        if self._projection is not None:
            self.projected = torch.empty(g.shape, dtype=self._narrow, device=g.device)

    def step(self, t: int, g: Tensor) -> None:
        by_cell, by_hidden, through, kept = (factor[t] for factor in self._factors)
        hidden = self._arriving(g)
        if self._projection is not None and self.projected is not None:
            self.projected[:, :, t] = hidden
            hidden = self._by(hidden.flatten(0, 2), self._projection.mT)
        self._cell.addcmul_(hidden, through)
        torch.mul(self._cell_of_gates, by_cell, out=self._by_cell)
        torch.mul(hidden, by_hidden, out=self._by_hidden)
        self._written[0][t].copy_(self._gates)
        self._cell.mul_(kept)
        self._carried = self._leave()

    def pulled(self) -> list[Tensor | None]:
        return [self.gates, self.projected, self._carried, self._cell]


class _PullGRU(_Pull):
    def _views(self, gates: Tensor) -> list[tuple[Tensor, ...]]:
        both, x, h = gates.unflatten(-1, (4, -1)).split([2, 1, 1], -2)
        self._both, self._last = self._gates.split([2, 1], -2)
        return [view.unbind(2) for view in (both, x.squeeze(-2), h)]

    def step(self, t: int, g: Tensor) -> None:
        by_hidden, by_n, kept = (factor[t] for factor in self._factors)
        both, x, h = (views[t] for views in self._written)
        hidden = self._arriving(g)
        torch.mul(hidden.unsqueeze(-2), by_hidden, out=self._gates)
        both.copy_(self._both)
        x.copy_(hidden * by_n)
        h.copy_(self._last)
        self._carried = self._leave().addcmul_(hidden, kept)


class _PullRNN(_Pull):
    def step(self, t: int, g: Tensor) -> None:
        torch.mul(self._arriving(g), self._factors[0][t], out=self._gates.squeeze(-2))
        self._written[0][t].copy_(self._gates)
        self._carried = self._leave()


_PULLS: dict[type[Scan], type[_Pull]] = {
    LSTM: _PullLSTM,
    GRU: _PullGRU,
    RNN: _PullRNN,
    ReluRNN: _PullRNN,
}
