"""What was verified, in plain data: a result carries its proof."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Record:
    """Sums and extremes over all that was compared.

    Attributes:
        mode: The option `verify`.
        batches: Looked at.
        rows: Samples whose logits were compared with the model's own call on their batch.
        samples: Of these, whose gradients were compared with plain autograd.
        scores: Of these, whose scores were computed anew from the definition.
        gradients: Compared: per-parameter norms of a sample and cotangent.
        largest_difference: Relative, of logits, norms and scores.
        in_float64: Times that a difference was decided in float64.
        seconds: Spent.
    """

    mode: str
    batches: int = 0
    rows: int = 0
    samples: int = 0
    scores: int = 0
    gradients: int = 0
    largest_difference: float = 0.0
    in_float64: int = 0
    seconds: float = 0.0

    def add(self, other: "dict[str, Any]") -> None:
        """Counts what another process, or this pool's earlier one, has compared."""
        for name, value in other.items():
            if name == "largest_difference":
                self.differ(value)
            elif name != "mode":
                setattr(self, name, getattr(self, name) + value)

    def differ(self, difference: float) -> None:
        """Notes a relative difference."""
        self.largest_difference = max(self.largest_difference, difference)

    def plain(self) -> dict[str, Any]:
        """As a dict."""
        return asdict(self)
