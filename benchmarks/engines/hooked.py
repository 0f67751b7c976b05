"""BackPACK and Opacus: hooks on modules, which leave their findings on the parameters."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import logits
from benchmarks.engines.contract import (
    Loss,
    MissingNormError,
    SqNorms,
    squares,
    total,
    trainable,
)


def backpack(extension: str, attribute: str, model: nn.Module) -> SqNorms:
    """One forward pass, from which each loss is pulled back; the extension fills `attribute`."""
    import backpack
    from backpack import extensions

    model = backpack.extend(model)
    parameters = trainable(model)

    def read(parameter: nn.Parameter) -> Tensor | None:
        found = getattr(parameter, attribute, None)
        if found is None or attribute == "batch_l2":
            return found
        return squares(found)

    def sq_norms(batch: Any, losses: Sequence[Loss]) -> Tensor:
        z = logits(model, batch)
        columns = []
        for i, loss in enumerate(losses):
            for parameter in parameters.values():
                parameter.grad = None
            again = i + 1 < len(losses)
            with backpack.backpack(getattr(extensions, extension)(), retain_graph=again):
                loss(z).sum().backward(retain_graph=again)
            columns.append(total(model, batch, read))
        return torch.stack(columns, 1)

    return sq_norms


def opacus(model: nn.Module) -> SqNorms:
    """Per-sample gradients by hooks, which a backward pass uses up: a forward pass for each."""
    from opacus.grad_sample import GradSampleModule

    # It records in training mode only.
    wrapped = GradSampleModule(model.train(), loss_reduction="sum")

    def read(parameter: nn.Parameter) -> Tensor | None:
        found = getattr(parameter, "grad_sample", None)
        if isinstance(found, list):
            raise MissingNormError("several per-sample gradients for one parameter")
        return None if found is None else squares(found)

    def sq_norms(batch: Any, losses: Sequence[Loss]) -> Tensor:
        columns = []
        for loss in losses:
            wrapped.zero_grad()
            loss(logits(wrapped, batch)).sum().backward()
            columns.append(total(wrapped, batch, read))
        return torch.stack(columns, 1)

    return sq_norms


def opacus_ghost(model: nn.Module) -> SqNorms:
    """Opacus' norms without per-sample gradients ("ghost clipping")."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(model.train(), loss_reduction="sum")

    def sq_norms(batch: Any, losses: Sequence[Loss]) -> Tensor:
        columns = []
        for loss in losses:
            wrapped.zero_grad()
            loss(logits(wrapped, batch)).sum().backward()
            columns.append(wrapped.get_norm_sample().detach().square())
        return torch.stack(columns, 1)

    return sq_norms
