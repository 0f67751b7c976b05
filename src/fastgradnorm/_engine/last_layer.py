"""What the last layer is given, by a forward pass alone; also of layers over many positions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._engine.passes import Passes
from fastgradnorm._model.batches import Batch
from fastgradnorm._model.passage import Passage, Settings
from fastgradnorm._model.subject import Subject
from fastgradnorm._model.views import Pieces
from fastgradnorm._model.watch import PlanChangedError, Watch

# How many dimensions follow the channels of the input; a linear layer has its features last.
_LAYERS: dict[Callable[..., Any], int] = {
    F.linear: 0,
    **dict.fromkeys((F.conv1d, F.conv_transpose1d), 1),
    **dict.fromkeys((F.conv2d, F.conv_transpose2d), 2),
    **dict.fromkeys((F.conv3d, F.conv_transpose3d), 3),
}


class LayerInput(Watch):
    """Keeps the input of the last such layer that holds a tracked parameter."""

    given: Tensor | None = None
    after = 0

    def ruled(
        self,
        func: Callable[..., Any],
        call: Mapping[str, Any],
        slots: Sequence[str],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Notes the input."""
        if func in _LAYERS:
            self.given, self.after = call["input"], _LAYERS[func]
        return self.run(func, args, kwargs)


def logits_and_features(
    passes: Passes, subject: Subject, names: Sequence[str], batch: Batch, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Logits `[N, *positions, C]` and features `[N, D]`, the mean over (valid) positions.

    Args:
        passes: Runs them.
        subject: The model.
        names: Parameters of the last layer.
        batch: The samples.
        valid: Which positions count, `[N, *positions]`; None: all.
    """

    def one(passage: Passage, leaves: Sequence[Tensor], valid: Tensor | None) -> Any:
        given = [leaf[None].clone() for leaf in leaves]
        return _seen(subject, names, batch, given, passage, valid, leaves)

    with torch.no_grad():
        found = passes.run(f"features {','.join(names)}", one, batch, valid)
    return cast(tuple[Tensor, Tensor], found)


def of_one(
    subject: Subject, names: Sequence[str], sample: Batch, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same of a batch of one, for models that cannot run under vmap."""
    own = [leaf.clone() for leaf in sample.leaves]
    with torch.no_grad():
        passage = Passage(Settings(channels_last=False))
        mask = None if valid is None else valid[0]
        logits, features = _seen(subject, names, sample, own, passage, mask, ())
    return logits[None], features[None]


def _seen(
    subject: Subject,
    names: Sequence[str],
    batch: Batch,
    given: Sequence[Tensor],
    passage: Passage,
    valid: Tensor | None,
    leaves: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    tracked = {k: v.detach() for k, v in subject.values(names).items()}
    view, stand_ins = subject.view(tracked)
    mode = LayerInput(Pieces(tracked), stand_ins, passage, leaves)
    with mode:
        logits = subject.tempered(view, batch, list(given))
    if not names:
        return logits, logits.new_zeros(0)
    if mode.given is None:
        raise PlanChangedError
    return logits, _mean(mode.given, mode.after, valid)


def _mean(given: Tensor, after: int, valid: Tensor | None) -> Tensor:
    """Features `[D]` of one sample's input `[(1,) *positions, D]` or `[(1,) D, *positions]`."""
    rows = given.movedim(given.dim() - 1 - after, -1)
    positions = [*rows.shape[:-1]]
    rows = rows.reshape(-1, rows.shape[-1])
    if valid is None or positions not in ([*valid.shape], [1, *valid.shape]):
        return rows.mean(0)
    weights = valid.reshape(-1, 1).to(rows.dtype)
    return (rows * weights).sum(0) / weights.sum().clamp_min(1)
