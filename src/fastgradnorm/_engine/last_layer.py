"""What the last layer is given, by a forward pass alone; also of layers over many positions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._engine.passes import Passes
from fastgradnorm._errors import ArgumentError
from fastgradnorm._model import (
    Batch,
    Followed,
    Lineage,
    Passage,
    Pieces,
    PlanChangedError,
    Settings,
    Subject,
)
from fastgradnorm._operations import table

# How many dimensions follow the channels of the input; a linear layer has its features last.
_LAYERS: dict[Callable[..., Any], int] = {
    F.linear: 0,
    F.layer_norm: 0,
    F.rms_norm: 0,
    torch.rms_norm: 0,
    **dict.fromkeys((F.conv1d, F.conv_transpose1d), 1),
    **dict.fromkeys((F.conv2d, F.conv_transpose2d), 2),
    **dict.fromkeys((F.conv3d, F.conv_transpose3d), 3),
}


# Norms that have the channels second.
_NORMS = (F.batch_norm, F.group_norm, F.instance_norm)
_PRODUCTS = {"matmul", "__matmul__", "mm", "bmm"}


def _input_of(
    func: Callable[..., Any], call: Mapping[str, Any], slots: Sequence[str]
) -> tuple[Tensor, int] | None:
    """What a layer is given, and how many dimensions follow its channels; None of other layers."""
    name = getattr(func, "__name__", "")
    if func in _LAYERS:
        return call["input"], _LAYERS[func]
    if func in _NORMS:
        return call["input"], call["input"].dim() - 2
    if name == "addmm" and "mat1" not in slots:
        return call["mat1"], 0
    if name in _PRODUCTS and len(slots) == 1:
        x = call["other" if slots[0] == "input" else "input"]
        return x, int(slots[0] == "input" and x.dim() > 1)
    if name == "einsum" and len(slots) == 1 and "->" in (equation := str(call["equation"])):
        terms, _, out = equation.replace(" ", "").partition("->")
        letters = terms.split(",")[slots[0] == "first"]
        summed = [letter for letter in letters if letter not in out]
        if "." not in equation and len(summed) == 1:
            x = call["second" if slots[0] == "first" else "first"]
            return x, len(letters) - 1 - letters.index(summed[0])
    return None


class LayerInput(Followed):
    """Keeps the input of the last such layer that holds a tracked parameter, or what is made of it.

    Attributes:
        lineage: Knows what is made of tracked parameters.
    """

    lineage: Lineage | None = None
    given: Tensor | None = None
    after = 0
    other = ""

    def ruled(
        self,
        func: Callable[..., Any],
        call: Mapping[str, Any],
        slots: Sequence[str],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Notes the input."""
        self._note(func, call, slots)
        return self.run(func, args, kwargs)

    def _note(
        self, func: Callable[..., Any], call: Mapping[str, Any], slots: Sequence[str]
    ) -> None:
        if not torch.is_grad_enabled():  # the model's own no_grad: this makes no logits
            return
        found = _input_of(func, call, slots)
        if found is None:
            self.other = getattr(func, "__name__", "")
        else:
            self.given, self.after = found

    def plain(
        self,
        func: Callable[..., Any],
        tensors: Sequence[Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Notes the input of a layer whose weight is made, and which has no bias of its own."""
        operation, lineage = table.known(func), self.lineage
        if operation.rule is not None and lineage is not None:
            call = operation.bind(args, kwargs)
            own = [k for k, v in call.items() if isinstance(v, Tensor) and lineage.is_own(v)]
            if own:
                self._note(func, call, own)
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
    mode.follower = mode.lineage = lineage = subject.lineage(tracked, given) if names else None
    # No tensor has a gradient here; what the model itself keeps out of its graph is still seen.
    with torch.enable_grad(), mode:
        logits = subject.with_head(view, batch, list(given), lineage).detach()
    if not names:
        return logits, logits.new_zeros(0)
    if mode.given is None and mode.other:
        raise ArgumentError(
            f"`space` must be 'sketch' for a model whose last layer is `{mode.other}`, of which it "
            "is not known what it is given. Or use a strategy by score or prediction, such as "
            "'top' or 'margin'.",
            "space",
        )
    if mode.given is None:
        raise PlanChangedError
    return logits, _mean(mode.given.detach(), mode.after, valid)


def _mean(given: Tensor, after: int, valid: Tensor | None) -> Tensor:
    """Features `[D]` of one sample's input `[(1,) *positions, D]` or `[(1,) D, *positions]`."""
    rows = given.movedim(given.dim() - 1 - after, -1)
    positions = [*rows.shape[:-1]]
    rows = rows.reshape(-1, rows.shape[-1])
    if valid is None or positions not in ([*valid.shape], [1, *valid.shape]):
        return rows.mean(0)
    weights = valid.reshape(-1, 1).to(rows.dtype)
    return (rows * weights).sum(0) / weights.sum().clamp_min(1)
