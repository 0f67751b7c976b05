r"""Losses that need a label: how it fits the logits, and cotangents at these.

With `u_j`, `om` and `r` of `posterior`, nothing cancels for a label that the model is certain of:
for class indices the cotangent is `p - e_y`, for probabilities `q` with `Q = Σ q` it is
`p_j (Q - q_j) - q_j (1 - p_j)`, for labels of their own `(1 - t) σ(z) - t σ(-z)`, and for values
`2 (z - t)` over their number.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from fastgradnorm_kernels.squares import sum_of_squares
from torch import Tensor

from fastgradnorm._errors import LabelError
from fastgradnorm._schemes.posterior import label_cotangents, posterior
from fastgradnorm._validate import fail

LossName = Literal["cross_entropy", "mse", "model"]
LabelledScheme = Literal["loss", "el2n"]

LOSSES: tuple[LossName, ...] = ("cross_entropy", "mse", "model")
# What needs a label, with its formula.
LABELLED_SCHEMES: dict[LabelledScheme, str] = {
    "loss": "the norm of the gradient of the loss at the label, ‖∇loss(x, y)‖",
    "el2n": "the distance of the class probabilities from the label, ‖p - e_y‖",
}
_IGNORED = -100


def settled(
    target: Tensor, shape: Sequence[int], loss: str, likelihood: str, class_dim: int
) -> Tensor:
    """Labels as the cotangents take them: class indices `[N, *positions]`, or `[N, *shape]`.

    Args:
        target: As the batch has them.
        shape: Of one sample's logits, `[*positions, C]`.
        loss: `"cross_entropy"` or `"mse"`.
        likelihood: `"categorical"` or `"bernoulli"`.
        class_dim: Where the model has the classes.

    Raises:
        ValueError: If they do not fit the logits, or one is out of range.
    """
    positions, size = list(shape[:-1]), len(target)
    wide = target.movedim(class_dim, -1) if -target.dim() <= class_dim < target.dim() else target
    if loss == "cross_entropy" and likelihood == "categorical":
        if not target.is_floating_point():
            return _indices(target, positions, shape[-1], class_dim)
        if list(wide.shape[1:]) != list(shape):
            raise fail(
                "target",
                f"class indices (integers) [N{_more(positions)}] or probabilities of "
                f"{shape[-1]} classes",
                target,
                "Labels in floating point are read as probabilities: use `.long()` for indices.",
            )
        return wide
    if loss == "cross_entropy":
        _check_chances(target)
    for form in (wide, target):
        if list(form.shape[1:]) == list(shape):
            return form
    if target[0].numel() == torch.Size(shape).numel() and (
        target.dim() == 1 or 1 in (target.shape[-1], shape[-1])
    ):
        return target.reshape(size, *shape)
    raise fail("target", f"labels of the logits' shape [N{_more(shape)}]", target)


def _indices(target: Tensor, positions: Sequence[int], classes: int, class_dim: int) -> Tensor:
    found = target.long()
    if list(found.shape[1:]) == [1, *positions]:  # the class dimension of a map that has one entry
        found = found[:, 0]
    if list(found.shape[1:]) != list(positions):
        rows = found.dim() == len(positions) + 2 and classes in found.shape[1:]
        advice = "Of one-hot rows pass `.argmax` of the classes, or `.float()`." if rows else ""
        if positions and class_dim == 1 and list(found.shape[1:]) == [classes, *positions[:-1]]:
            advice = "If the outputs have the classes last, pass `class_dim=-1`."
        raise fail("target", f"class indices [N{_more(positions)}]", target, advice)
    wrong = ((found < 0) | (found >= classes)) & (found != _IGNORED)
    if bool(wrong.any()):
        at = wrong.nonzero()[0].tolist()
        place = f" at {at[1:]}" if at[1:] else ""
        number, advice = int(found[tuple(at)]), ""
        if bool((found[wrong] == number).all()):  # one number, which may stand for what is no class
            advice = f" For what is left out write {_IGNORED}, or pass `nn.CrossEntropyLoss("
            advice += f"ignore_index={number})`."
        raise LabelError(
            f"`target` must be class indices from 0 to {classes - 1}, or {_IGNORED} for what is "
            f"left out. Got {number} for sample {at[0]} of a batch{place}.{advice}",
            "target",
            at[0],
        )
    return found


def _check_chances(target: Tensor) -> None:
    """Raises unless labels of a logit each, which are 0 and 1, can be such or chances of such."""
    wrong = ((target < 0) | (target > 1)) & (target != _IGNORED)
    if bool(wrong.any()):
        at = wrong.nonzero()[0].tolist()
        raise LabelError(
            f"`target` must be labels from 0 to 1, or {_IGNORED} for what is left out, where each "
            f"logit is a label of its own. Got {target[tuple(at)].item():g} for sample {at[0]} of "
            "a batch. Write labels of -1 and 1 as 0 and 1; of class indices the model has one "
            "logit each.",
            "target",
            at[0],
        )


def _more(shape: Sequence[int]) -> str:
    return "".join(f", {size}" for size in shape)


def _counted(z: Tensor, target: Tensor, valid: Tensor | None, likelihood: str) -> Tensor:
    """What counts in the mean: of positions `[*positions, 1]`, or of labels `[*positions, C]`."""
    if likelihood == "bernoulli":
        counted = (target != _IGNORED).to(z.dtype)
    elif target.dim() < z.dim():
        counted = (target != _IGNORED).to(z.dtype)[..., None]
    else:
        counted = torch.ones_like(z[..., :1])
    return counted if valid is None else counted * valid.to(z.dtype)[..., None]


def residual(z: Tensor, target: Tensor, likelihood: str, dtype: torch.dtype) -> Tensor:
    """`p - e_y` for logits `[*positions, C]`, with all digits of each entry."""
    if likelihood == "bernoulli":
        t = target.to(dtype)
        found: Tensor = (1 - t) * z.sigmoid() - t * (-z).sigmoid()
        return found
    post = posterior(z)
    if target.dim() < z.dim():
        return label_cotangents(post, target.clamp_min(0)[None])[0]
    q = target.to(dtype)
    others = _others(q)
    rest = torch.where(post.top, post.om, 1 - post.p)
    return post.p * others - q * rest


def _others(q: Tensor) -> Tensor:
    """The sum of the other entries of each row, exact where they are zero."""
    before = q.cumsum(-1) - q
    after = q.flip(-1).cumsum(-1).flip(-1) - q
    return torch.where(q == q.sum(-1, keepdim=True), 0.0, before + after)


def loss_cotangent(
    z: Tensor, target: Tensor, valid: Tensor | None, loss: str, likelihood: str
) -> Tensor:
    """The gradient of a named loss at one sample's logits `[*positions, C]`."""
    if loss == "mse":
        counted = torch.ones_like(z) if valid is None else valid.to(z.dtype)[..., None].expand_as(z)
        return 2 * (z - target.to(z.dtype)) * counted / counted.sum().clamp_min(1)
    counted = _counted(z, target, valid, likelihood)
    found = residual(z, target, likelihood, z.dtype)
    return torch.where(counted > 0, found * (counted / counted.sum().clamp_min(1)), 0.0)


def error_norm(z: Tensor, target: Tensor, valid: Tensor | None, likelihood: str) -> Tensor:
    """EL2N of one sample: `‖p - e_y‖`, the mean of it over valid positions."""
    counted = _counted(z, target, valid, likelihood)
    found = torch.where(counted > 0, residual(z, target, likelihood, z.dtype), 0.0)
    sizes = sum_of_squares(found).sqrt()
    return sizes.sum() / counted.amax(-1).sum().clamp_min(1)
