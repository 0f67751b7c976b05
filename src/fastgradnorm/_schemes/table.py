"""Every scheme, one entry each: what its score is made of, and what is known of it beforehand.

A score is either an average over the labels, of a power of the norm of each label's gradient, or
the norm of one gradient: whoever needs to know which asks here, and never goes by a name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fastgradnorm._schemes.posterior import Posterior, entropy_cotangent

Scheme = Literal["expected", "expected_squared", "entropy"]
SketchScheme = Literal["entropy", "predicted"]


@dataclass(frozen=True)
class Entry:
    """One scheme.

    Attributes:
        formula: In words and symbols, for reports.
        two_classes: Of two classes every gradient is a multiple of one direction's, `e_0 - e_1` at
            the logits. What the power of its norm is multiplied by, from `p q` and the distance of
            the two logits.
        power: Of the norms.
        cotangent: The gradient of the loss at the logits, where that asks for no label. None: the
            loss is the cross-entropy, and the score the average over the labels by probability.
        closed_form: Whether the kernels know it for the last layer without a pull-back, as a field
            of that name in `HeadScores`.
    """

    formula: str
    two_classes: Callable[[Tensor, Tensor], Tensor]
    power: int = 1
    cotangent: Callable[[Posterior], Tensor] | None = None
    closed_form: bool = True

    @property
    def averaged(self) -> bool:
        """Whether it is an average over the labels."""
        return self.cotangent is None


TABLE: dict[Scheme, Entry] = {
    "expected": Entry(
        formula="the expected norm of the loss gradient, Σ p(c) ‖∇loss(x, c)‖",
        two_classes=lambda pq, gap: 2 * pq,
    ),
    "expected_squared": Entry(
        formula="the expected squared norm of the loss gradient, Σ p(c) ‖∇loss(x, c)‖²",
        two_classes=lambda pq, gap: pq,
        power=2,
    ),
    "entropy": Entry(
        formula="the norm of the gradient of the predictive entropy, ‖∇H(p)‖",
        two_classes=lambda pq, gap: pq * gap,
        cotangent=entropy_cotangent,
    ),
}

# What is told to users: each name with its formula.
SCHEMES: dict[Scheme, str] = {name: entry.formula for name, entry in TABLE.items()}

# What a sketch can be of, as cotangents: `H(p)`, and the cross-entropy of the most probable class.
SKETCHED: dict[SketchScheme, Callable[[Posterior], Tensor]] = {
    "entropy": entropy_cotangent,
    "predicted": lambda posterior: posterior.residual,
}
