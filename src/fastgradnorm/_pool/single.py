"""Batches that are scored by a call each.

Each call makes an engine of its own, of the model as it is then. What verification has seen is
kept, as from one batch of a pool to the next, as long as the model is to all appearance the same.
"""

from typing import Any

from torch import nn

from fastgradnorm._model import Appearance, as_batch
from fastgradnorm._options import Options
from fastgradnorm._pool.run import score_verified
from fastgradnorm._pool.start import make_engine
from fastgradnorm._process import autograd_ready, models_in_use
from fastgradnorm._schemes import Scored
from fastgradnorm._witness import Learnt, Witness


class Calls:
    """Calls of one scorer, in order; copies of it begin anew."""

    def __init__(self) -> None:
        self._last: tuple[Appearance, Options, Learnt] | None = None

    def __reduce__(self) -> tuple[type["Calls"], tuple[()]]:
        return Calls, ()  # what tells scorers apart by their bytes sees no calls

    def score(self, model: nn.Module, options: Options, batch: Any) -> Scored:
        """Scores of all samples of a batch, as they came from a loader."""
        last, self._last = self._last, None  # of two threads at once one begins anew
        with autograd_ready():
            engine = make_engine(model, options)
            subject, witness = engine.subject, Witness(engine)
            if last is not None and last[1] is options and self._is_same(last[0], model):
                witness.go_on(last[2])
            given = options.forward, options.mask, subject.model, options.labels
            scored = score_verified(engine, witness, as_batch(batch, subject.device, *given))
        if options.verify:
            with models_in_use:
                self._last = Appearance(model), options, witness.learnt()
        return scored

    @staticmethod
    def _is_same(before: Appearance, model: nn.Module) -> bool:
        with models_in_use:
            return before.is_of(model)
