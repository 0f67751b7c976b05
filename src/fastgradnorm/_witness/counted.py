"""Which parameters count, asked once more of the caller's model; which cotangents are compared."""

from collections.abc import Sequence

import torch

from fastgradnorm._engine import Engine, make_plan
from fastgradnorm._model import Batch


def counted(engine: Engine, batch: Batch) -> list[tuple[str, ...]]:
    """Names of the parameters of each sample; one entry where they are those of all samples.

    Samples have last layers of their own where the model branches, or is given what says so.
    """
    subject = engine.subject
    if engine.options.params == "last_layer":
        if len(engine.plans(batch)) == 1 and not engine.passes.branched:
            return [engine.plan(batch).names]
        each = [batch.take(slice(i, i + 1)) for i in range(len(batch))]
        return [make_plan(subject, one).names for one in each]
    if engine.options.params != "all":
        return [tuple(subject.chosen)]
    # Read anew from the model.
    return [tuple(name for name, p in subject.model.named_parameters() if p.requires_grad)]


def spread(places: Sequence[int], most: int) -> list[int]:
    """So many of them, the first and the last included."""
    index = torch.linspace(0, len(places) - 1, min(most, len(places)), device="cpu").long()
    return [places[i] for i in index.tolist()]
