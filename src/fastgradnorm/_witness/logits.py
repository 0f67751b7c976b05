"""Logits of a pass, in which each sample is alone, against the model's own call on a batch."""

import warnings

from torch import Tensor

from fastgradnorm._engine import Engine
from fastgradnorm._errors import (
    NOT_THE_MODELS,
    BatchDependenceWarning,
    UnsupportedModelError,
    VerificationError,
)
from fastgradnorm._model import Batch
from fastgradnorm._witness.company import differ, mixing_layer
from fastgradnorm._witness.own_call import OwnModel
from fastgradnorm._witness.record import Record
from fastgradnorm._witness.rounding import doubled, logits_movement, tolerance
from fastgradnorm._witness.seen import Seen

# Relative to the largest logit of a sample, of float32: float64 decides above the first; above the
# second, trials must show that rounding alone can do it. And what float64 must agree to.
_ROUNDING, _LARGE, _DOUBLE = 3e-5, 1e-3, 1e-8
_HALF = 5e-2


def seen_logits(engine: Engine, batch: Batch) -> Tensor:
    """Logits `[n, *positions, C]` as the engine's passes make them."""
    return engine.making(Seen(())).score(batch).scores["logits"]


def agree(engine: Engine, logits: Tensor, seen: Tensor) -> bool:
    """Whether logits `[n, *positions, C]` differ by no more than rounding."""
    return _furthest(seen, logits)[1] <= (_HALF if engine.options.autocast else _ROUNDING)


def check_rows(
    engine: Engine,
    own: OwnModel,
    batch: Batch,
    seen: Tensor,
    logits: Tensor,
    record: Record,
    quiet: bool = False,
) -> bool:
    """Each sample's logits are those of the model's own call. Whether they are only if it is alone.

    Args:
        engine: Makes the passes.
        own: The caller's model.
        batch: `n` samples.
        seen: Logits `[n, *positions, C]` as the engine makes them.
        logits: Likewise, of the own call.
        record: Takes note.
        quiet: Whether not to warn.

    Raises:
        UnsupportedModelError: If the model gives a sample other logits alone than in company.
        VerificationError: If the engine's logits are the model's own neither way.
    """
    row, difference = _furthest(seen, logits)
    if difference <= _rounding(engine, own):
        record.differ(difference)
        return False
    precise = _is_rounding(engine, batch, record)
    # A loss may read what cannot be made float64, as a teacher in its closure, and be the small
    # difference of large numbers: trials alone decide.
    unknown = precise is None and engine.options.by_output
    if (precise and difference <= _LARGE) or (
        (precise or unknown) and _moves_as_far(engine, own, batch, seen, logits)
    ):
        return False
    alone = own.logits(batch.take(slice(row, row + 1)))
    if differ(seen[row], alone[0]) > max(_rounding(engine, own), _LARGE):
        raise VerificationError(
            f"The engine disagrees with the model's own call on sample {row} of a batch: logits "
            f"differ by {differ(seen[row], alone[0]):.2g} of the largest. Please report this with "
            "the model's definition; `naive_score_pool` gives correct scores meanwhile."
        )
    meant = may_be_meant(engine, own)
    if not (meant and quiet):
        layer = mixing_layer(own, batch, row)
        told = (
            f"{layer} gives a sample other values in a batch than alone: in the model's own call "
            f"on {len(batch)} samples the logits of sample {row} differ by {difference:.2g} of the "
            "largest from those it has by itself. "
        )
        _tell_dependence(told, meant)
        if own.carried in own.written:  # that much has been said of it
            own.carried = None
    return True


def tell_carried(own: OwnModel) -> None:
    """Warns, once, of a model that goes on from call to call."""
    if own.carried is None:
        return
    warnings.warn(
        f"`model` gives the same samples other logits when it is called again: what it keeps in "
        f"`{own.carried}` goes into the next call. Every sample is scored by what the model holds "
        "now, as if it were the first one, and that is put back. If a batch is to go on from the "
        "one before, call the model on that one and score the next with `score_batch`.",
        BatchDependenceWarning,
        stacklevel=2,
    )
    own.carried = None


def may_be_meant(engine: Engine, own: OwnModel) -> tuple[str, str] | None:
    """Why company changes a sample, and what to do about it, where somebody may want it so."""
    if engine.passes.branched:
        reason = "The model reads values of its batch to decide what to do"
        return reason, "decide for each sample, with `torch.where`"
    if own.written:
        reason = f"The model writes to its buffer `{own.written[0]}` while it runs"
        return reason, "turn that off first (observers, running statistics)"
    return None


def _tell_dependence(told: str, meant: tuple[str, str] | None) -> None:
    if meant is None:
        raise UnsupportedModelError(
            f"{told}Such a sample has no gradient of its own. Look for means, softmax or attention "
            "over the first dimension, `squeeze()`, a branch on the batch's size, or a layer that "
            "takes the batch second (`batch_first=False`)."
        )
    reason, cure = meant
    warnings.warn(
        f"{told}{reason}. Each sample is scored as if it were alone, and as the model is now. If "
        f"that is not meant, {cure}.",
        BatchDependenceWarning,
        stacklevel=2,
    )


def _furthest(seen: Tensor, logits: Tensor) -> tuple[int, float]:
    """The sample whose logits differ most, and by how much."""
    each = [differ(a, b) for a, b in zip(seen, logits, strict=True)]
    row = max(range(len(each)), key=each.__getitem__)
    return row, each[row]


def _rounding(engine: Engine, own: OwnModel) -> float:
    wide = tolerance(engine.subject, own.narrow).double <= 5e-3
    return _ROUNDING if wide else _HALF


def _is_rounding(engine: Engine, batch: Batch, record: Record) -> bool | None:
    """Whether the difference goes away in float64; None for models that do not run there.

    In the same company: of another one, a branch of the batch may be another.
    """
    wide = doubled(engine.subject, batch, engine.options.changed(verify=False))
    if wide is None:
        return None
    record.in_float64 += 1
    precise, given = wide
    try:
        exact = OwnModel(precise.subject).logits(given)
        return _furthest(seen_logits(precise, given), exact)[1] <= _DOUBLE
    except NOT_THE_MODELS:
        raise
    except Exception:  # of the caller's model
        return None


def _moves_as_far(
    engine: Engine, own: OwnModel, batch: Batch, seen: Tensor, logits: Tensor
) -> bool:
    """Whether the model's own logits move as far by rounding, as those of a router do."""
    room = logits_movement(engine.subject, batch, own.narrow)
    room = room.flatten(1).amax(1) if room.dim() > 1 else room
    gap = (seen - logits).double().abs().flatten(1).amax(1)
    return bool((gap <= room).all())
