"""What is pulled back from one sample's logits, and what becomes of the norms."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Term:
    """`Σ_k weights_k norm_k^power` over the cotangents `start:stop` is the score of `scheme`."""

    scheme: str
    start: int
    stop: int
    weights: Tensor
    power: int
    sampled: bool = False


@dataclass(frozen=True)
class PullBacks:
    """What to pull back from one sample's logits, and what to make of the norms.

    Attributes:
        cotangents: `[K, *logits.shape]`, each with a largest entry of 1.
        scales: `[K]`, what each was divided by.
        terms: One a scheme.
    """

    cotangents: Tensor
    scales: Tensor
    terms: tuple[Term, ...]

    def scores(self, norms: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Score and standard error (None where exact) of each scheme, from norms `[K]`."""
        norms = norms * self.scales
        found: dict[str, tuple[Tensor, Tensor | None]] = {}
        for term in self.terms:
            powers = norms[term.start : term.stop].pow(term.power)
            error = None
            if term.sampled:
                draws = term.stop - term.start
                spread = powers.std() if draws > 1 else torch.full_like(powers[0], torch.nan)
                error = spread / draws**0.5
            found[term.scheme] = ((term.weights * powers).sum(), error)
        return found
