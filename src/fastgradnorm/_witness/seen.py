"""What the engine makes of samples, in the terms in which the witness asks: logits and norms."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastgradnorm._engine import Outcome, Passes, PlainPass, Plan, TappedPass, make_plan
from fastgradnorm._model import Batch, Subject
from fastgradnorm._schemes import Scored


class Seen:
    """An outcome of passes: `logits` `[N, *positions, C]`, and `sq_norms` `[N, K, P]`.

    The squared norms are of the cotangents `beside` each sample of a batch, `[N, K, *logits]`; if
    there are none, the pass is a forward pass alone.

    Args:
        names: Parameters, in the order of the norms.
        cotangents: How many each sample has; 0 for none.
    """

    def __init__(self, names: Sequence[str], cotangents: int = 0) -> None:
        self._names, self._cotangents = list(names), cotangents
        self.pulled = 0
        self.slow: str | None = None

    def count(self, plan: Plan) -> int:
        """As in `Outcome`."""
        return self._cotangents

    def planned(self, plan: Plan) -> Plan:
        """As in `Outcome`."""
        return plan

    def make(self, passes: Passes, plan: Plan, batch: Batch) -> Scored:
        """Of all samples."""
        if batch.beside is None:
            return Scored({"logits": passes.logits(batch, None)}, {})  # too few to be traced

        def of_sample(run: TappedPass, cotangents: Tensor) -> tuple[Tensor, Tensor]:
            return run.logits.detach(), run.pull(cotangents)

        logits, norms = passes.each(None, plan, batch, of_sample, batch.beside)
        return Scored({"logits": logits, "sq_norms": self._by_name(plan.names, norms)}, {})

    def alone(
        self, subject: Subject, sample: Batch, error: Exception | None, run: Callable[[], Scored]
    ) -> Scored:
        """By plain autograd, as the sample is scored."""
        last = subject.options.params == "last_layer"
        names = make_plan(subject, sample).names if last else list(subject.chosen)
        plain = PlainPass(subject, sample, names)
        found = {"logits": plain.logits.detach()[None]}
        if sample.beside is not None:
            rows = torch.stack([plain.sq_norms(cotangent) for cotangent in sample.beside[0]])
            found["sq_norms"] = self._by_name(names, rows[None])
        return Scored(found, {})

    def check(self, plan: Plan, batch: Batch) -> None:
        """As in `Outcome`: no label is read."""

    def aside(self) -> Outcome:
        """As in `Outcome`."""
        return self

    def nothing(self, dtype: torch.dtype) -> Scored:
        """As in `Outcome`."""
        return Scored({"logits": torch.empty(0, dtype=dtype, device="cpu")}, {})

    def _by_name(self, names: Sequence[str], norms: Tensor) -> Tensor:
        """Columns of the parameters that were asked for; 0 for those that this plan leaves out."""
        place = {name: i for i, name in enumerate(names)}
        zero = norms.new_zeros(norms.shape[:-1])
        columns = [norms[..., place[n]] if n in place else zero for n in self._names]
        return torch.stack(columns, -1)
