"""Losses that PyTorch runs sample by sample under vmap, written with other operations.

What is out of date, or no argument of the loss, is left to PyTorch.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.operation import Operation

_REDUCED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda each, _: each,
    "mean": lambda each, _: each.mean(),
    "sum": lambda each, _: each.sum(),
}


def _batchmean(each: Tensor, input: Tensor) -> Tensor:
    return each.sum() / len(input) if input.dim() > 0 else each.sum()


def _kl_div(input: Tensor, target: Tensor, log_target: bool) -> Tensor:
    """As of a student to its teacher."""
    if log_target:
        return target.exp() * (target - input)
    return torch.xlogy(target, target) - target * input


def _soft_margin(input: Tensor, target: Tensor) -> Tensor:
    return F.softplus(-target * input)


def _multi_margin(
    input: Tensor, target: Tensor, p: int, margin: float, weight: Tensor | None
) -> Tensor | None:
    """How far each other class comes near that of the label."""
    if p not in (1, 2) or input.dim() == 0:
        return None
    label = target.reshape(*input.shape[:-1], 1)
    gaps = torch.relu(margin - input.gather(-1, label) + input)
    gaps = gaps if p == 1 else gaps.square()
    gaps = gaps if weight is None else gaps * weight[label]
    is_label = torch.arange(input.shape[-1], device=input.device) == label
    return torch.where(is_label, 0.0, gaps).mean(-1)


def _multilabel_margin(input: Tensor, target: Tensor) -> Tensor | None:
    """Of the labels up to the first negative one."""
    if input.dim() == 0:
        return None
    counts = (target < 0).long().cumsum(-1) == 0  # [N, C]
    labels = target.clamp(min=0)
    classes = torch.arange(input.shape[-1], device=input.device)
    is_label = ((labels[..., None] == classes) & counts[..., None]).any(-2)
    gaps = torch.relu(1 - input.gather(-1, labels)[..., None] + input[..., None, :])
    gaps = torch.where(counts[..., None] & ~is_label[..., None, :], gaps, 0.0)
    return gaps.sum((-1, -2)) / input.shape[-1]


def _margin_ranking(input1: Tensor, input2: Tensor, target: Tensor, margin: float) -> Tensor | None:
    """How far the one that is to rank lower comes near."""
    if not input1.dim() == input2.dim() == target.dim():
        return None
    return (margin - target * (input1 - input2)).clamp_min(0)


def _triplet_margin(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float,
    p: float,
    eps: float,
    swap: bool,
) -> Tensor | None:
    """How far the negative one comes near."""
    if margin <= 0 or not anchor.dim() == positive.dim() == negative.dim():
        return None
    near = F.pairwise_distance(anchor, positive, p, eps)
    far = F.pairwise_distance(anchor, negative, p, eps)
    far = torch.minimum(far, F.pairwise_distance(positive, negative, p, eps)) if swap else far
    return (margin + near - far).clamp_min(0)


def _form(loss: Callable[..., Tensor], each: Callable[..., Tensor | None]) -> Callable[..., Tensor]:
    """`loss`, from what each element is before they are reduced; None: not of these arguments."""
    signature = inspect.signature(loss)
    reduced = _REDUCED | ({"batchmean": _batchmean} if loss is F.kl_div else {})

    def form(*args: Any, **kwargs: Any) -> Tensor:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        old = [given.pop(name) for name in ("size_average", "reduce")]
        reduction = given.pop("reduction")
        known = old == [None, None] and reduction in reduced
        found = each(**given) if known else None
        if found is None:
            return loss(*args, **kwargs)
        return reduced[reduction](found, given.get("input", found))

    return form


_EACH: dict[Callable[..., Tensor], Callable[..., Tensor | None]] = {
    F.kl_div: _kl_div,
    F.soft_margin_loss: _soft_margin,
    F.multi_margin_loss: _multi_margin,
    F.multilabel_margin_loss: _multilabel_margin,
    F.margin_ranking_loss: _margin_ranking,
    F.triplet_margin_loss: _triplet_margin,
}

OPERATIONS: dict[Callable[..., Any], Operation] = {
    loss: Operation(form=_form(loss, each)) for loss, each in _EACH.items()
}
