r"""Losses by operations whose gradients keep all their digits where the label is certain.

The gradient of a cross-entropy is `p - e_y`. Formed as that difference, as PyTorch does, its
largest entry loses all digits once `1 - p_y` is below 6e-8 in float32. Written as
`softplus(logsumexp_{j≠y}(z_j - z_y))`, autograd gives entry y as minus the sum of the others.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.operation import Operation


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor | None:
    """`F.cross_entropy`; None where an argument is out of date, or none of its."""
    plain = size_average is None and reduce is None and 0 <= label_smoothing <= 1
    if plain and _are_chances(target, input):
        if label_smoothing:
            target = target * (1 - label_smoothing) + label_smoothing / input.shape[_dim(input)]
        return _of_chances(input, target, weight, reduction)
    indices = isinstance(target, Tensor) and not target.is_floating_point()
    if not (plain and indices and input.is_floating_point() and input.dim() == target.dim() + 1):
        return None
    z = input.movedim(1, -1) if input.dim() > 1 else input
    if z.shape[:-1] != target.shape or z.shape[-1] < 2:
        return None
    dtype = z.dtype
    z = z.float() if dtype in (torch.float16, torch.bfloat16) else z
    target = target.long()
    valid = target != ignore_index
    label = torch.where(valid, target, 0).unsqueeze(-1)
    others = label != torch.arange(z.shape[-1], device=z.device)
    gap = (z - z.gather(-1, label)).masked_fill(~others, torch.finfo(z.dtype).min)
    each = F.softplus(gap.logsumexp(-1))
    share = valid.to(each.dtype)
    if weight is not None:
        chosen = weight.to(each.dtype).index_select(0, label.flatten())  # vmap has no 0-d index
        share = share * chosen.reshape(target.shape)
    each = each * share
    if label_smoothing:  # part of the label is spread over all classes, those of no weight apart
        rates = z.log_softmax(-1) if weight is None else z.log_softmax(-1) * weight.to(z.dtype)
        spread = -rates.sum(-1) / z.shape[-1]
        each = (1 - label_smoothing) * each + label_smoothing * spread
    each = torch.where(valid, each, 0.0)
    if reduction == "sum":
        each = each.sum()
    elif reduction == "mean":
        each = each.sum() / share.sum()
    return each if torch.is_autocast_enabled(z.device.type) else each.to(dtype)


def _dim(input: Tensor) -> int:
    """Of the classes."""
    return min(1, input.dim() - 1)


def _are_chances(target: Any, input: Tensor) -> bool:
    """Whether labels are probabilities of the classes, in the dtype of what they are of."""
    if not isinstance(target, Tensor) or target.dtype != input.dtype:
        return False
    classes = input.shape[_dim(input)] if input.dim() else 0
    return input.is_floating_point() and target.shape == input.shape and classes > 1


def _of_chances(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str
) -> Tensor | None:
    """With m the likeliest label, `Q (logsumexp z - z_m) + Σ_k q_k (z_m - z_k)`, `Q = Σ q`.

    Of a certain label nothing but the first part is left, as of class indices.
    """
    if reduction not in ("none", "mean", "sum"):
        return None
    dim = _dim(input)
    z, q = input.movedim(dim, -1), target.movedim(dim, -1)
    dtype = z.dtype
    if dtype in (torch.float16, torch.bfloat16):
        z, q = z.float(), q.float()
    q = q if weight is None else q * weight.to(q.dtype)
    label = q.detach().argmax(-1, keepdim=True)
    others = label != torch.arange(z.shape[-1], device=z.device)
    gap = (z - z.gather(-1, label)).masked_fill(~others, 0.0)
    certain = F.softplus(gap.masked_fill(~others, torch.finfo(z.dtype).min).logsumexp(-1))
    each = q.sum(-1) * certain - (q * gap).sum(-1)
    if reduction == "sum":
        each = each.sum()
    elif reduction == "mean":
        each = each.sum() / max(1, each.numel())
    return each if torch.is_autocast_enabled(z.device.type) else each.to(dtype)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor | None:
    """The function of that name in `F`; None where an argument asks for more than its mean."""
    if size_average is not None or reduce is not None or input.shape != target.shape:
        return None
    z = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    right = target * F.softplus(-z)
    each = (1 - target) * F.softplus(z) + (right if pos_weight is None else pos_weight * right)
    each = each if weight is None else each * weight
    if reduction != "none":
        each = each.sum() if reduction == "sum" else each.mean()
    return each if torch.is_autocast_enabled(z.device.type) else each.to(input.dtype)


# The same values; None where a form does not apply.
FORMS: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    F.cross_entropy: cross_entropy,
    F.binary_cross_entropy_with_logits: binary_cross_entropy_with_logits,
}
OPERATIONS: dict[Callable[..., Any], Operation] = {
    func: Operation(opened=form) for func, form in FORMS.items()
}
