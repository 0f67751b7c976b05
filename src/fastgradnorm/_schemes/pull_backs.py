"""What is pulled back from one sample's logits, and what becomes of the norms."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Term:
    """`Σ_k weights_k norm_k^power` over the cotangents `start:stop` is the score of `scheme`.

    Or, with `root`, its square root. Its square is `Σ_k squared_k norm_k²`; by default with the
    same weights.
    """

    scheme: str
    start: int
    stop: int
    weights: Tensor
    power: int
    sampled: bool = False
    root: bool = False
    squared: Tensor | None = None


@dataclass(frozen=True)
class PullBacks:
    """What to pull back from one sample's logits, and what to make of the norms.

    Attributes:
        cotangents: `[K, *logits.shape]`, each with a largest entry of 1.
        scales: `[K]`, what each was divided by.
        terms: One a scheme.
        values: Scores that take no pull-back.
    """

    cotangents: Tensor
    scales: Tensor
    terms: tuple[Term, ...]
    values: Mapping[str, Tensor] = field(default_factory=dict)

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
            total = (term.weights * powers).sum()
            found[term.scheme] = (total.sqrt() if term.root else total, error)
        return found | {scheme: (value, None) for scheme, value in self.values.items()}

    def squares(self, sq_norms: Tensor) -> dict[str, Tensor]:
        """Squared norms `[G]` of each scheme, from those of each cotangent `[K, G]`.

        Of an average over the labels, the average of the squares.
        """
        each = sq_norms * self.scales.square()[:, None]
        found = {}
        for term in self.terms:
            weights = term.weights if term.squared is None else term.squared
            found[term.scheme] = (weights[:, None] * each[term.start : term.stop]).sum(0)
        return found

    def as_they_are(self) -> "PullBacks":
        """The same, divided by nothing."""
        scales = self.scales.view(-1, *[1] * (self.cotangents.dim() - 1))
        ones = torch.ones_like(self.scales)
        return replace(self, cotangents=self.cotangents * scales, scales=ones)

    def joined(self, other: "PullBacks") -> "PullBacks":
        """What these and others ask for, in one."""
        count = len(self.cotangents)
        moved = tuple(
            replace(term, start=term.start + count, stop=term.stop + count) for term in other.terms
        )
        return PullBacks(
            torch.cat([self.cotangents, other.cotangents]),
            torch.cat([self.scales, other.scales]),
            (*self.terms, *moved),
            {**self.values, **other.values},
        )
