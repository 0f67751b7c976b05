"""Losses that PyTorch runs sample by sample under vmap, written with other operations.

Each function takes the arguments of the operation it stands for and gives the same values; what is
out of date, or no argument of that operation, is left to it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.operation import Operation

_REDUCTIONS = ("none", "mean", "sum")


def _reduced(each: Tensor, reduction: str) -> Tensor:
    return each if reduction == "none" else each.mean() if reduction == "mean" else each.sum()


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """`F.kl_div`: as of a student to its teacher."""
    batchmean = reduction == "batchmean" and input.dim() > 0
    old = size_average is not None or reduce is not None
    if old or not (batchmean or reduction in _REDUCTIONS):
        return F.kl_div(input, target, size_average, reduce, reduction, log_target)
    if log_target:
        each = target.exp() * (target - input)
    else:
        each = torch.xlogy(target, target) - target * input
    return each.sum() / len(input) if batchmean else _reduced(each, reduction)


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`F.soft_margin_loss`."""
    if size_average is not None or reduce is not None or reduction not in _REDUCTIONS:
        return F.soft_margin_loss(input, target, size_average, reduce, reduction)
    return _reduced(F.softplus(-target * input), reduction)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`F.multi_margin_loss`: how far each other class comes near that of the label."""
    old = size_average is not None or reduce is not None or reduction not in _REDUCTIONS
    if old or p not in (1, 2) or input.dim() == 0:
        given = input, target, p, margin, weight, size_average, reduce
        return F.multi_margin_loss(*given, reduction)
    label = target.reshape(*input.shape[:-1], 1)
    gaps = torch.relu(margin - input.gather(-1, label) + input)
    gaps = gaps if p == 1 else gaps.square()
    gaps = gaps if weight is None else gaps * weight[label]
    is_label = torch.arange(input.shape[-1], device=input.device) == label
    return _reduced(torch.where(is_label, 0.0, gaps).mean(-1), reduction)


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`F.multilabel_margin_loss`, of the labels up to the first negative one."""
    old = size_average is not None or reduce is not None or reduction not in _REDUCTIONS
    if old or input.dim() == 0:
        return F.multilabel_margin_loss(input, target, size_average, reduce, reduction)
    counts = (target < 0).long().cumsum(-1) == 0  # [N, C]
    labels = target.clamp(min=0)
    classes = torch.arange(input.shape[-1], device=input.device)
    is_label = ((labels[..., None] == classes) & counts[..., None]).any(-2)
    gaps = torch.relu(1 - input.gather(-1, labels)[..., None] + input[..., None, :])
    gaps = torch.where(counts[..., None] & ~is_label[..., None, :], gaps, 0.0)
    return _reduced(gaps.sum((-1, -2)) / input.shape[-1], reduction)


_FORMS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.kl_div: kl_div,
    F.soft_margin_loss: soft_margin_loss,
    F.multi_margin_loss: multi_margin_loss,
    F.multilabel_margin_loss: multilabel_margin_loss,
}

OPERATIONS: dict[Callable[..., Any], Operation] = {
    function: Operation(form=form) for function, form in _FORMS.items()
}
