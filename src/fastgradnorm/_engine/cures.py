"""What to do about a batch that a model does not run on, found by trying it on others."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgradnorm._model import Batch, Subject


def cure(subject: Subject, batch: Batch, run: Callable[[list[Any]], Any]) -> str:
    """What to do, with a space before it; empty where nothing is known.

    Args:
        subject: The model, which has just failed on one sample of the batch.
        batch: Of the loader.
        run: Calls the model on other inputs.
    """
    inputs = [leaf[:1] for leaf in batch.leaves]
    wide = {p.dtype for p in subject.model.parameters() if p.is_floating_point()}
    given = {x.dtype for x in inputs if isinstance(x, Tensor)}
    if torch.uint8 in given:
        return " The loader gives bytes. Convert them as in training, as by `x.float() / 255`."
    whole = len(wide) == 1 and not any(t.is_floating_point or t.is_complex for t in given)
    to = next(iter(wide)) if whole else None
    if to is not None and _runs(run, [_to(x, to) for x in inputs]):
        return " The loader gives whole numbers. Convert them as in training, by `x.float()`."
    if _runs(run, [x[None] if isinstance(x, Tensor) else x for x in batch.leaves]):
        return (
            " It runs on what the loader yields as one sample. If these are samples and no "
            "batches, make batches of them: `DataLoader(samples, batch_size=64)`."
        )
    others = sorted(str(dtype) for dtype in given - wide if dtype.is_floating_point)
    if not (others and wide):
        return ""
    names = " and ".join(sorted(map(str, wide)))
    return f" The loader gives {others[0]}, the parameters are {names}: convert one of them."


def _runs(run: Callable[[list[Any]], Any], inputs: list[Any]) -> bool:
    with contextlib.suppress(Exception), torch.no_grad():  # of the model's, on what is no pool
        run(inputs)
        return True
    return False


def _to(x: Any, dtype: torch.dtype) -> Any:
    return x.to(dtype) if isinstance(x, Tensor) else x
