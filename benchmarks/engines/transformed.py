"""Engines that are part of PyTorch: `torch.func` and ExpandedWeights."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import logits, size
from benchmarks.engines.contract import Loss, SqNorms, squares, total, trainable


def _call(model: nn.Module, values: dict[str, Tensor], sample: Any) -> Tensor:
    """Logits `[1, C]` of one sample without its batch dimension."""
    from torch.func import functional_call

    if isinstance(sample, dict):
        batch = {name: tensor[None] for name, tensor in sample.items()}
        output = functional_call(model, values, (), batch)
    else:
        output = functional_call(model, values, (sample[None],))
    return output if isinstance(output, Tensor) else output.logits


def per_sample_gradients(model: nn.Module, loss: Loss) -> Callable[[Any], dict[str, Tensor]]:
    """`vmap(grad(loss))`: from a batch to every sample's gradient `[N, *shape]`, by parameter."""
    from torch.func import grad, vmap

    values = {name: p.detach() for name, p in trainable(model).items()}

    def of_sample(v: dict[str, Tensor], sample: Any) -> Tensor:
        return loss(_call(model, v, sample))[0]

    return lambda batch: vmap(grad(of_sample), (None, 0))(values, batch)


def vmap_grad(model: nn.Module) -> SqNorms:
    """Per-sample gradients of one loss at a time."""

    def sq_norms(batch: Any, losses: Sequence[Loss]) -> Tensor:
        columns = []
        for loss in losses:
            grads = per_sample_gradients(model, loss)(batch)
            columns.append(torch.stack([squares(g) for g in grads.values()]).sum(0))
        return torch.stack(columns, 1)

    return sq_norms


def vmap_vjp(model: nn.Module) -> SqNorms:
    """One forward pass for all losses; per-sample gradients of one at a time, squared at once."""
    from torch.func import grad, vjp, vmap

    values = {name: p.detach() for name, p in trainable(model).items()}

    def sq_norms(batch: Any, losses: Sequence[Loss]) -> Tensor:
        def of_sample(sample: Any) -> Tensor:
            z, pull = vjp(lambda v: _call(model, v, sample), values)
            found = []
            for loss in losses:
                (grads,) = pull(grad(lambda z, loss=loss: loss(z)[0])(z.detach()))
                found.append(torch.stack([g.square().sum() for g in grads.values()]).sum())
            return torch.stack(found)

        return vmap(of_sample)(batch).detach()

    return sq_norms


def expanded_weights(model: nn.Module) -> SqNorms:
    """`call_for_per_sample_grads`: parameters that remember gradients by sample."""
    from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

    parameters = trainable(model)

    def read(parameter: nn.Parameter) -> Tensor | None:
        found = getattr(parameter, "grad_sample", None)
        return None if found is None else squares(found)

    def sq_norms(batch: Any, losses: Sequence[Loss]) -> Tensor:
        _forget(parameters)
        options = {"batch_size": size(batch), "loss_reduction": "sum"}
        z = logits(call_for_per_sample_grads(model, **options), batch)
        columns = []
        for i, loss in enumerate(losses):
            _forget(parameters)
            loss(z).sum().backward(retain_graph=i + 1 < len(losses))
            columns.append(total(model, batch, read))
        return torch.stack(columns, 1)

    return sq_norms


def _forget(parameters: dict[str, nn.Parameter]) -> None:
    for parameter in parameters.values():
        parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]
