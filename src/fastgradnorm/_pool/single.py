"""Batches that are scored by a call each.

A call makes an engine of its own, of the model as it is then. What verification has seen is kept,
as from one batch of a pool to the next, as long as the model is to all appearance the same. Where
it was so for two calls, and all that it reads can be looked at, the engine is kept too, with its
plans and traces.
"""

from typing import Any, NamedTuple

from torch import nn

from fastgradnorm._engine import Engine
from fastgradnorm._model import Appearance, NoSnapshotError, Snapshot, as_batch
from fastgradnorm._options import Options
from fastgradnorm._pool.scored import score_verified
from fastgradnorm._pool.start import make_engine
from fastgradnorm._process import autograd_ready, interrupts_wait, models_in_use
from fastgradnorm._schemes import Scored
from fastgradnorm._witness import Learnt, Witness


class _Kept(NamedTuple):
    """An engine, and what its model was when it was made."""

    engine: Engine
    snapshot: Snapshot


class _Last(NamedTuple):
    """What a call leaves to the next one.

    Attributes:
        model: That was scored.
        appearance: How it looked like then.
        options: All that was asked for.
        learnt: What verification has seen of it.
        kept: What scored it; None if it is to be made anew.
    """

    model: nn.Module
    appearance: Appearance
    options: Options
    learnt: Learnt
    kept: _Kept | None


class Calls:
    """Calls of one scorer, in order; copies of it begin anew."""

    def __init__(self) -> None:
        self._last: _Last | None = None

    def __reduce__(self) -> tuple[type["Calls"], tuple[()]]:
        return Calls, ()  # what tells scorers apart by their bytes sees no calls

    def score(self, model: nn.Module, options: Options, batch: Any) -> Scored:
        """Scores of all samples of a batch, as they came from a loader."""
        last, self._last = self._last, None  # of two threads at once one begins anew
        with interrupts_wait(), autograd_ready():
            if last is not None and not (last.options is options and last.model is model):
                last = None
            kept = None if last is None else _still(last.kept)
            if kept is None and last is not None:
                with models_in_use:
                    last = last if last.appearance.is_of(model) else None
                kept = None if last is None else _made(model, options)
            engine = make_engine(model, options) if kept is None else kept.engine
            witness = Witness(engine)
            if last is not None:
                witness.go_on(last.learnt)
            given = options.forward, options.mask, engine.subject.model, options.labels
            scored = score_verified(engine, witness, as_batch(batch, engine.subject.device, *given))
        goes_on = last is not None and kept is not None and kept is last.kept
        with models_in_use:
            appearance = last.appearance if last is not None and goes_on else Appearance(model)
        self._last = _Last(model, appearance, options, witness.learnt(), kept)
        return scored


def _still(kept: _Kept | None) -> _Kept | None:
    """That, if its model is what it was in all that a run may read."""
    if kept is None or kept.engine.chunks.halved:
        return None
    with models_in_use:
        return kept if kept.snapshot.holds() and kept.engine.subject.follows() else None


def _made(model: nn.Module, options: Options) -> _Kept | None:
    """An engine that may be kept; None if it may not."""
    if options.device is not None or any(p.device.type != "cpu" for p in model.parameters()):
        return None  # captured passes would take a GPU's memory between calls
    with models_in_use:
        try:
            snapshot = Snapshot(model, options)
        except NoSnapshotError:
            return None
        engine = make_engine(model, options)
        return _Kept(engine, snapshot) if engine.subject.follows() else None
