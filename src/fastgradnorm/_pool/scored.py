"""Scores of one batch, on the CPU: where they were made on a device, it is waited for once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgradnorm._engine import Engine
from fastgradnorm._model import Batch
from fastgradnorm._schemes import Scored
from fastgradnorm._witness import Witness


def score_one(engine: Engine, batch: Batch) -> Scored:
    """Scores of one batch, on the CPU."""
    dtype = torch.float64 if engine.subject.dtype == torch.float64 else torch.float32
    if len(batch) == 0:
        return engine.outcome.nothing(dtype)
    scored = engine.score(batch)
    if engine.also is not None:
        more = engine.also.score(batch)
        errors = scored.errors | more.errors
        scored = Scored(scored.scores | more.scores, errors, scored.logits)
    scores, errors = _on_the_host([scored.scores, scored.errors], dtype)
    return Scored(scores, errors, scored.logits)


def score_verified(engine: Engine, witness: Witness, batch: Batch) -> Scored:
    """Scores of one batch, on the CPU, verified if the options say so."""
    if len(batch) == 0:
        return score_one(engine, batch)
    looks = witness.look(batch)
    with witness.scoring():
        scored = score_one(engine, batch)
    witness.count(scored)
    witness.examine(looks, scored)
    return scored


def _on_the_host(found: Sequence[dict[str, Tensor]], dtype: torch.dtype) -> list[dict[str, Tensor]]:
    """Tensors by name, copied together where they are on a device."""
    tensors = [values for each in found for values in each.values()]
    if len(tensors) > 1 and all(values.device.type != "cpu" for values in tensors):
        whole = torch.cat([values.to(dtype).flatten() for values in tensors]).cpu()
        parts = whole.split([values.numel() for values in tensors])
        moved = iter([a.view(b.shape) for a, b in zip(parts, tensors, strict=True)])
    else:
        moved = iter([values.to("cpu", dtype) for values in tensors])
    return [{name: next(moved) for name in each} for each in found]
