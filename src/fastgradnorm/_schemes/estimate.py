"""Scores to a relative standard error, from some of the classes, in rounds.

A class's term of a score is `y_c = p_c g_c^power`, `g_c` the norm of its gradient. What the last
layer alone would give, `a_c = p_c ‖p - e_c‖^power`, is known from the logits, and `y_c / a_c`
hardly differs between classes. So `a_c` are the weights by which classes are drawn. A round takes
the classes pulled back so far as they are and draws from the rest, so that its estimate is unbiased
whatever the earlier rounds saw; estimates of several rounds are averaged by their precision. To
stop where the error looks small enough is what biases a little: by 0.2 % where the ratios differ by
40 % and `rtol` is 0.02.

How far the ratios of one sample differ is known badly from a few of them. Its estimate therefore
begins with `_SPREAD`, seen in networks of several kinds, as if `_TRUST` ratios had told it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fastgradnorm._schemes.draws import Draw, counts_for, draw, line
from fastgradnorm._schemes.posterior import Posterior, cotangent_sizes

_SPREAD = 0.15  # standard deviation of `y_c / a_c`, relative, for power 1
_TRUST = 3
_ROUNDS = 8  # after which all classes are taken
_LEAST = 3  # classes in the first round


class Partial:
    """Estimates for N samples of C classes.

    Args:
        posterior: Their class probabilities.
        powers: By scheme, the power of the norms that it averages.
        rtol: Standard error to reach, relative to the score.
        uniform: Gives uniform numbers `[draws, positions]`, which all samples share.

    Attributes:
        open: Indices of the samples that need another round.
        scores: `[N]`, by scheme.
        errors: Standard errors `[N]`, by scheme; 0 where all classes were taken.
    """

    def __init__(
        self,
        posterior: Posterior,
        powers: dict[str, int],
        rtol: float,
        uniform: Callable[[int, int, torch.dtype, torch.device], Tensor],
    ) -> None:
        self.powers, self.rtol = powers, rtol
        self.p = posterior.p.double()
        sizes = cotangent_sizes(posterior).double()
        self.closed = {scheme: self.p * sizes**power for scheme, power in powers.items()}
        # The draws serve all schemes; each stays unbiased, whatever the weights.
        self.weights = self.closed[min(powers, key=powers.__getitem__)].nan_to_num(0.0)
        self.others = ~posterior.top
        self.known = torch.zeros_like(self.others)
        none = torch.zeros_like(self.p[:, 0])
        self.terms = {scheme: torch.zeros_like(self.p) for scheme in powers}
        self.scores = dict.fromkeys(powers, none)
        self.errors = dict.fromkeys(powers, none)
        self._sums = dict.fromkeys(powers, none)
        self._precision, self._wanted = none, self._first_variance()
        self.open = torch.arange(len(none), device=none.device)
        self.round = 0
        self._uniform = uniform(self.p.shape[1], _ROUNDS, torch.float64, none.device)

    def _first_variance(self) -> Tensor:
        """V that suffices if the ratios differ by `_SPREAD`, `[N]`."""
        weight = torch.where(self.others, self.weights, 0.0).sum(-1)
        found = []
        for scheme, power in self.powers.items():
            closed = self.closed[scheme]
            ratio = torch.where(self.others, closed, 0.0).sum(-1) / weight
            found.append((self.rtol * closed.sum(-1) / (_SPREAD * power * ratio)).square())
        return torch.stack(found).amin(0).nan_to_num(torch.inf)

    def draw(self) -> Draw:
        """The classes that the open samples need next."""
        weights = torch.where(self.known, 0.0, self.weights)[self.open]
        ordered = line(weights)
        missing = 1 / self._wanted[self.open] - self._precision[self.open]
        needed = torch.where(missing > 0, 1 / missing, torch.inf)
        if self.round >= _ROUNDS - 1:
            needed = torch.zeros_like(needed)
        counts = counts_for(ordered, needed, 1 if self.round else _LEAST)
        # One number for each pair of most probable classes: samples of a pool err independently.
        table = self._uniform[self.round]
        pair = self.p[self.open].nan_to_num(0.0).topk(2).indices
        return draw(ordered, counts, table[pair].sum(-1) % 1)

    def add(self, drawn: Draw, norms: Tensor) -> None:
        """Takes in the gradient norms `[n, K]` of what `draw` asked for."""
        at, classes = self.open, drawn.classes
        taken = drawn.factors > 0
        exact = drawn.variance == 0
        precision = self._precision[at] + 1 / drawn.variance
        self._precision = self._precision.index_copy(0, at, precision)
        for scheme, power in self.powers.items():
            y = torch.where(taken, self.p[at].gather(1, classes) * norms.double() ** power, 0.0)
            estimate = self.terms[scheme][at].sum(-1) + (drawn.factors * y).sum(-1)
            sums = self._sums[scheme][at] + estimate / drawn.variance
            score = torch.where(exact, estimate, sums / precision)
            self.terms[scheme] = _put(self.terms[scheme], at, classes, taken, y)
            self._sums[scheme] = self._sums[scheme].index_copy(0, at, sums)
            self.scores[scheme] = self.scores[scheme].index_copy(0, at, score)
        self.known = _put(self.known, at, classes, taken, taken)
        self.round += 1
        wanted = torch.full_like(precision, torch.inf)
        for scheme, power in self.powers.items():
            spread = self._spread(scheme, power, at)
            error = torch.where(exact, 0.0, spread / precision.sqrt())
            self.errors[scheme] = self.errors[scheme].index_copy(0, at, error)
            goal = self.rtol * self.scores[scheme][at]
            wanted = torch.minimum(wanted, (goal / spread).square())
        self._wanted = self._wanted.index_copy(0, at, wanted)
        self.open = at[self._short(at)]

    def _short(self, at: Tensor) -> Tensor:
        return torch.stack(
            [self.errors[s][at] > self.rtol * self.scores[s][at] for s in self.powers]
        ).any(0)

    def _spread(self, scheme: str, power: int, at: Tensor) -> Tensor:
        """Standard deviation of the ratios `y_c / w_c`, the predicted class's apart, `[n]`."""
        seen = (self.known & self.others)[at]
        ratios = torch.where(seen, self.terms[scheme][at] / self.weights[at], 0.0)
        count = seen.sum(-1)
        mean = ratios.sum(-1) / count
        squares = torch.where(seen, ratios / mean[:, None] - 1, 0.0).square().sum(-1)
        prior = _TRUST * (power * _SPREAD) ** 2
        return mean * ((prior + squares) / (_TRUST + count - 1)).sqrt()


def _put(tensor: Tensor, at: Tensor, classes: Tensor, taken: Tensor, values: Tensor) -> Tensor:
    """`tensor` `[N, C]` with `values` `[n, K]` of `classes` in rows `at`, where they were `taken`.

    Those that were not go to a column that is dropped: to look for those that were, the host would
    have to wait.
    """
    dropped = tensor.shape[1]
    rows = torch.cat([tensor[at], torch.zeros_like(tensor[at, :1])], 1)
    rows = rows.scatter(1, torch.where(taken, classes, dropped), values)
    return tensor.index_copy(0, at, rows[:, :dropped])
