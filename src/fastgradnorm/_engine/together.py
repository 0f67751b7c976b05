"""A last layer by one plain forward pass over a whole batch, as the model's owner runs it.

No transform, no derivative: the pass costs what a forward pass costs. That samples do not mix in it
is not seen here. Who allows it has compared such a call with samples alone; and where the model
reads a value, which may be of several samples, it is left.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgradnorm._engine.taps import HeadInput
from fastgradnorm._errors import NOT_THE_MODELS
from fastgradnorm._model import READING, Batch, Passage, Pieces, PlanChangedError, Subject
from fastgradnorm._process import is_out_of_memory


class Head(NamedTuple):
    """What a last layer was given and what came of it.

    Attributes:
        logits: `[N, C]`.
        features: `[N, D]`.
    """

    logits: Tensor
    features: Tensor


class _ApartError(Exception):
    """The samples have to be run each by itself."""


class _Rows(HeadInput):
    """As that, of a plain pass of many samples."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in READING:
            raise _ApartError
        return super().__torch_function__(func, types, args, kwargs)


def head_together(
    subject: Subject,
    batch: Batch,
    leaves: Sequence[Tensor],
    names: Sequence[str],
    width: tuple[int, int],
    passage: Passage,
) -> Head | None:
    """Runs the model once on all samples.

    Args:
        subject: The model.
        batch: How it is called.
        leaves: The samples.
        names: Parameters of its last layer.
        width: Inputs and outputs of that.
        passage: How the model is run.

    Returns:
        None where that does not tell each sample's features and logits.
    """
    tracked = {name: value.detach() for name, value in subject.values(names).items()}
    view, stand_ins = subject.view(tracked)
    mode = _Rows(Pieces(tracked), stand_ins, passage, ())
    try:
        with torch.no_grad():
            logits = subject.rows(view, batch, [leaf.clone() for leaf in leaves], mode)
        same = logits is not None and mode.is_output(logits)
    except (_ApartError, PlanChangedError):
        return None
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, NOT_THE_MODELS):
            raise
        subject.blamed = False
        return None  # what a model raises for a batch it may not raise for one sample
    inputs, outputs = width
    count, given, made = len(leaves[0]), mode.given, mode.output
    if given is None or made is None or logits is None or logits.shape != (count, outputs):
        return None
    if given.numel() != count * inputs or made.numel() != count * outputs:
        return None
    made = made.reshape(logits.shape).to(logits.dtype)
    if not same and not torch.allclose(logits, made, equal_nan=True):
        return None  # more than this layer made them, or its rows are in another order
    return Head(logits, given.reshape(count, inputs))
