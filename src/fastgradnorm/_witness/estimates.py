"""Estimates from some of the classes, as the draws of the seed make them of the norms of all."""

from fastgradnorm_kernels import accumulation_dtype
from torch import Tensor

from fastgradnorm._engine import Engine
from fastgradnorm._schemes import Partial, make_objective, posterior, total_norms

_ERRORS = 6.0  # standard errors by which an estimate may be off


class Estimates:
    """What estimates of one sample may be.

    Args:
        logits: `[1, C]`.
        sq_norms: Of each class's gradient, by plain autograd, `[>= C, P]`.
        engine: The engine.
        rounding: How far off a score may be.
    """

    def __init__(self, logits: Tensor, sq_norms: Tensor, engine: Engine, rounding: float) -> None:
        options, self._rounding = engine.options, rounding
        self._rtol = options.rtol
        z = logits.to(accumulation_dtype(engine.subject.dtype))
        objective = make_objective(options, z.shape[1:])
        norms = total_norms(sq_norms[: z.shape[1]], options.reduction)[None].to(z.device)
        partial = Partial(posterior(z), objective.powers, options.rtol, objective.uniform)
        while len(partial.open):
            drawn = partial.draw()
            partial.add(drawn, norms.gather(1, drawn.classes))
        self._drawn = partial.scores

    def wanted(self, scheme: str, actual: float, score: float, error: float) -> tuple[float, float]:
        """What a score `actual` of that told error is to be compared with, and how closely.

        Of the same draws the same estimate comes: where few ratios that are alike were drawn of
        many that are not, it is further off than it tells. Rounding may decide how many are drawn.
        """
        drawn = float(self._drawn[scheme])
        if abs(actual - drawn) <= self._rounding * abs(drawn):
            return drawn, 0.0
        return score, _ERRORS * error + self._rtol * score
