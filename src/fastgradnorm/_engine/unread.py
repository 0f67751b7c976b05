"""Logits of many samples by one plain pass, for a look at how the model treats them together."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgradnorm._errors import NOT_THE_MODELS
from fastgradnorm._model import READING, Batch, Passage, Pieces, PlanChangedError, Subject, Watch
from fastgradnorm._process import is_out_of_memory


class _ReadError(Exception):
    """The model reads a value, which is of all samples."""


class _Unread(Watch):
    """Follows a plain pass of many samples, and leaves it where the model reads a value."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in READING:
            raise _ReadError
        return super().__torch_function__(func, types, args, kwargs)


def logits_together(subject: Subject, batch: Batch, passage: Passage) -> Tensor | None:
    """Logits `[N, ..., C]` of a plain pass of many samples, of which nothing is kept.

    Returns:
        None where the model fails on them, reads a value or has no row for each.
    """
    view, stand_ins = subject.view({})
    try:
        with torch.no_grad():
            given = [leaf.clone() for leaf in batch.leaves]
            return subject.rows(view, batch, given, _Unread(Pieces({}), stand_ins, passage, ()))
    except (_ReadError, PlanChangedError):
        return None
    except Exception as error:
        # Of the model, or its answer to samples that are none of the pool's: their numbers may be
        # sizes for which there is no memory.
        if isinstance(error, NOT_THE_MODELS) and not is_out_of_memory(error):
            raise
        subject.blamed = False
        return None
