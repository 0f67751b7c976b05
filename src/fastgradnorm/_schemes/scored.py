"""Scores of samples by name, cut and joined as their batches are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Scored:
    """Scores `[N]` by scheme, and standard errors of the sampled ones.

    Attributes:
        scores: By scheme.
        errors: By scheme.
        logits: What they were made of, `[N, C]` over the temperature; None for dense outputs, of
            which there is too much, and where it is not told.
    """

    scores: dict[str, Tensor]
    errors: dict[str, Tensor]
    logits: Tensor | None = None

    def take(self, index: Tensor | slice) -> "Scored":
        """Those of the samples at `index`."""
        return Scored(
            {name: values[index] for name, values in self.scores.items()},
            {name: values[index] for name, values in self.errors.items()},
            None if self.logits is None else self.logits[index],
        )

    def copied(self) -> "Scored":
        """The same in memory of its own."""
        return Scored(
            {name: values.clone() for name, values in self.scores.items()},
            {name: values.clone() for name, values in self.errors.items()},
            None if self.logits is None else self.logits.clone(),
        )

    def put(self, place: int, one: "Scored") -> "Scored":
        """The same with those of one sample in another one's place."""

        def put(values: Tensor, other: Tensor | None) -> Tensor:
            if other is None:
                return values
            return values.index_put((torch.tensor(place, device="cpu"),), other[0].to(values))

        return Scored(
            {name: put(values, one.scores.get(name)) for name, values in self.scores.items()},
            {name: put(values, one.errors.get(name)) for name, values in self.errors.items()},
            None if self.logits is None else put(self.logits, one.logits),
        )

    @classmethod
    def join(cls, parts: "Sequence[Scored]") -> "Scored":
        """Several batches as one; the errors of exact scores are 0 where others have some."""
        if len(parts) == 1:
            return parts[0]
        names = dict.fromkeys(name for part in parts for name in part.errors)
        logits = [part.logits for part in parts if part.logits is not None]
        return cls(
            {name: torch.cat([part.scores[name] for part in parts]) for name in parts[0].scores},
            {
                name: torch.cat(
                    [p.errors.get(name, torch.zeros_like(p.scores[name])) for p in parts]
                )
                for name in names
            },
            torch.cat(logits) if len(logits) == len(parts) else None,
        )
