"""Why plain autograd disagrees: what a model does that makes gradients differ from call to call.

A gradient of the engine's is of one sample alone, through a copy of the model made anew. What the
model's own call on a batch gives instead may be the model's doing, though the logits are the same:
company that only gradients see, or something that is kept where no copy takes it along. Whether it
is one of these is tried, in calls that leave one of them out.
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from fastgradnorm._engine import Engine
from fastgradnorm._errors import (
    BatchDependenceWarning,
    UnsupportedModelError,
    VerificationError,
)
from fastgradnorm._model import Batch
from fastgradnorm._schemes import Scored
from fastgradnorm._witness.company import mixing_gradient
from fastgradnorm._witness.gradients import Comparison
from fastgradnorm._witness.logits import may_be_meant
from fastgradnorm._witness.own_call import OwnModel
from fastgradnorm._witness.record import Record


class _Copied(OwnModel):
    """A copy of the model, made anew for each call.

    Args:
        own: The caller's.
        before: Whether each copy is called once more, before, without gradients.
    """

    def __init__(self, own: OwnModel, before: bool) -> None:
        super().__init__(own.subject)
        self._borrowed, self._before = False, before

    def _called(self, model: nn.Module, batch: Batch) -> Tensor:
        if self._before:
            with torch.no_grad():
                super()._called(model, batch)
        return super()._called(model, batch)


def compared(own: OwnModel, compare: Callable[[OwnModel], None]) -> None:
    """Compares with gradients of samples alone, from the caller's own model.

    Args:
        own: The caller's model.
        compare: Does it, with whatever model makes the gradients.

    Raises:
        UnsupportedModelError: If the model's own gradients depend on earlier calls.
        VerificationError: If `compare` raises it for any other reason.
    """
    try:
        compare(own)
    except VerificationError as error:
        _tell_kept(own, partial(_agrees, compare), error)
        raise


def _agrees(compare: Callable[[OwnModel], None], model: OwnModel) -> bool:
    try:
        compare(model)
    except VerificationError:
        return False
    return True


def compare(
    engine: Engine,
    own: OwnModel,
    batch: Batch,
    scored: Scored,
    first: int,
    record: Record,
    apart: bool,
    quiet: bool,
) -> bool:
    """Compares gradients and scores of a few samples. Whether they are so only if each is alone.

    Args:
        engine: The engine.
        own: The caller's model.
        batch: The samples.
        scored: What the engine made of them.
        first: The place of the first one in its batch.
        record: Takes note.
        apart: Whether company is known to change them.
        quiet: Whether not to warn.

    Raises:
        UnsupportedModelError: If the model's own gradients depend on the company, or on earlier
            calls.
        VerificationError: If the engine disagrees with plain autograd in any other way.
    """

    def alone(model: OwnModel) -> None:
        Comparison(engine, model, batch, Record(record.mode), True).check(scored, first)

    agrees = partial(_agrees, alone)
    try:
        Comparison(engine, own, batch, record, apart).check(scored, first)
    except VerificationError as error:
        if not apart and len(batch) > 1 and agrees(own):
            meant = may_be_meant(engine, own)
            if not (meant and quiet):
                _tell_company(own, batch, meant, error)
            return True
        _tell_kept(own, agrees, error)
        raise
    return apart


def _tell_company(
    own: OwnModel, batch: Batch, meant: tuple[str, str] | None, error: VerificationError
) -> None:
    told = (
        f"{mixing_gradient(own, batch)} has another gradient at its output where a sample is in a "
        f"batch than where it is alone, though the logits are the same, in the model's own call on "
        f"{len(batch)} samples. "
    )
    if meant is None:
        raise UnsupportedModelError(
            f"{told}Such a sample has no gradient of its own. Look, in what comes after it, for "
            "means or other statistics over the first dimension whose values cancel and whose "
            "gradients do not (`c - c.detach()`), for `detach()` of some samples alone, and for "
            "hooks that look at a whole batch."
        ) from error
    reason, cure = meant
    warnings.warn(
        f"{told}{reason}. Each sample is scored as if it were alone. If that is not meant, {cure}.",
        BatchDependenceWarning,
        stacklevel=2,
    )


def _tell_kept(own: OwnModel, agrees: Callable[[OwnModel], bool], error: VerificationError) -> None:
    """Of a copy that is called once, and of one that was called before, without gradients."""
    fresh, again = _Copied(own, before=False), _Copied(own, before=True)
    if not agrees(fresh) or agrees(again):
        return
    raise UnsupportedModelError(
        "`model` has other gradients when it is called again: what it made of its parameters in an "
        "earlier call is kept outside of its modules, where no copy takes it along (a cache such "
        "as `functools.lru_cache` with a module or a parameter as its key, a global, a closure), "
        "and goes into the next call without its gradient. Keep it in an attribute of the module, "
        "make it anew in each call, or clear it before."
    ) from error
