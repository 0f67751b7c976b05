"""Where a model makes a sample's output depend on the others in its batch."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastgradnorm._model import Batch
from fastgradnorm._validate import type_name
from fastgradnorm._witness.own_call import OwnModel

_NOISE = 1e-3


def differ(a: Tensor, b: Tensor) -> float:
    """The largest difference relative to the largest number of the second; NaN are alike."""
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0 or torch.equal(a, b):
        return 0.0
    a, b = a.detach().double(), b.detach().double()
    alike = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(alike, 0.0, (a - b).abs().nan_to_num(torch.inf, torch.inf))
    size = float(b.nan_to_num(0.0, 0.0, 0.0).abs().max())
    return float(gap.max()) / max(size, torch.finfo(torch.float64).tiny)


def mixing_layer(own: OwnModel, batch: Batch, row: int) -> str:
    """The first module in which row `row` of a batch is another one than alone, in words."""
    together = _events(own, batch)
    alone = _events(own, batch.take(slice(row, row + 1)))
    for (kind, path, tensors), (other_kind, other_path, others) in zip(
        together, alone, strict=False
    ):
        if (kind, path) != (other_kind, other_path):
            break
        pairs = [
            (t[row], single[0])
            for t, single in zip(tensors, others, strict=False)
            if t.dim() and single.dim() and len(t) == len(batch) and len(single) == 1
        ]
        if any(differ(a, b) > _NOISE for a, b in pairs):
            return _named(own, path if kind == "out" else path.rpartition(".")[0])
    return _named(own, "")


def mixing_gradient(own: OwnModel, batch: Batch) -> str:
    """The last module at whose output gradients are others in company than alone, in words."""
    together = _slopes(own, batch)
    for row in range(len(batch)):
        alone = _slopes(own, batch.take(slice(row, row + 1)))
        for (path, slopes), (other, single) in zip(together[::-1], alone[::-1], strict=False):
            if path != other:
                break
            if differ(slopes[row], _placed(single[0], row, len(batch))) > _NOISE:
                return _named(own, path)
    return _named(own, "")


def _placed(single: Tensor, row: int, count: int) -> Tensor:
    """The row of one sample among those of others, which have none."""
    whole = single.new_zeros(count, *single.shape[1:])
    whole[row] = single[0]
    return whole


def _slopes(own: OwnModel, batch: Batch) -> list[tuple[str, list[Tensor]]]:
    """Gradients of each sample's logits at what modules return for all, in order of the calls.

    Each sample's are of its own logits alone, pulled back by numbers of no meaning.
    """
    kept: list[tuple[str, Tensor]] = []
    handles = []

    def watch(path: str, module: nn.Module) -> None:
        def leave(_: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.requires_grad and len(output) == len(batch):
                kept.append((path, output))

        handles.append(module.register_forward_hook(leave))

    for path, module in own.subject.model.named_modules():
        watch(path, module)
    try:
        logits = own.gradients(batch, []).logits
    finally:
        for handle in handles:
            handle.remove()
    numbers = torch.arange(1.0, logits[0].numel() + 1, device=logits.device).cos()
    found: list[tuple[str, list[Tensor]]] = [(path, []) for path, _ in kept]
    for row in range(len(batch)):
        pulled = torch.zeros_like(logits)
        pulled[row] = numbers.view(logits[0].shape).to(logits.dtype)
        outputs = [output for _, output in kept]
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        slopes = torch.autograd.grad(logits, outputs, pulled, **options) if outputs else ()
        for (_, rows), slope in zip(found, slopes, strict=True):
            rows.append(slope)
    return found


def _named(own: OwnModel, path: str) -> str:
    kind = type_name(own.subject.model.get_submodule(path))
    return f"`model.{path}` ({kind})" if path else f"`model` ({kind})"


def _events(own: OwnModel, batch: Batch) -> list[tuple[str, str, list[Tensor]]]:
    """Inputs and outputs of each module, in the order in which they are there."""
    events: list[tuple[str, str, list[Tensor]]] = []
    handles = []

    def tensors(tree: Any) -> list[Tensor]:
        found = [t.detach().clone() for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]
        return [t for t in found if t.is_floating_point()]

    def watch(path: str, module: nn.Module) -> None:
        def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
            events.append(("in", path, tensors((args, kwargs))))

        def leave(_: nn.Module, args: Any, output: Any) -> None:
            events.append(("out", path, tensors(output)))

        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave))

    for path, module in own.subject.model.named_modules():
        watch(path, module)
    try:
        own.logits(batch)
    finally:
        for handle in handles:
            handle.remove()
    return events
