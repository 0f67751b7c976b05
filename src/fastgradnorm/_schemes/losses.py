r"""Losses that need a label: where it stands in a batch, and cotangents at the logits.

With `u_j`, `om` and `r` of `posterior`, nothing cancels for a label that the model is certain of:
for class indices the cotangent is `p - e_y`, for probabilities `q` with `Q = Σ q` it is
`p_j (Q - q_j) - q_j (1 - p_j)`, for labels of their own `(1 - t) σ(z) - t σ(-z)`, and for values
`2 (z - t)` over their number.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from fastgradnorm_kernels.squares import sum_of_squares
from torch import Tensor, nn
from torch.nn import functional as F

from fastgradnorm._errors import ArgumentError, LossError
from fastgradnorm._schemes.posterior import label_cotangents, posterior
from fastgradnorm._validate import fail, fail_type

LossName = Literal["cross_entropy", "mse", "model"]
LabelledScheme = Literal["loss", "el2n"]
Target = str | int | Callable[[Any], Any]

LOSSES: tuple[LossName, ...] = ("cross_entropy", "mse", "model")
# What needs a label, with its formula.
LABELLED_SCHEMES: dict[LabelledScheme, str] = {
    "loss": "the norm of the gradient of the loss at the label, ‖∇loss(x, y)‖",
    "el2n": "the distance of the class probabilities from the label, ‖p - e_y‖",
}
_IGNORED = -100
_KEYS = ("labels", "label")


class Labels(NamedTuple):
    """How batches are read for their labels.

    Attributes:
        target: Where they are.
        named: Whether labels are taken out of a batch.
        whole: Whether a loss is given all that is in the batch.
        given: Whether the model is given the labels.
        found: Whether a loss that is given the whole batch takes labels at `target`.
    """

    target: Target | None
    named: bool
    whole: bool
    given: bool
    found: bool


def takes_logits(loss: Any) -> bool:
    """Whether it is called as `(logits, target)`, as PyTorch's losses are."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return isinstance(loss, nn.Module) or getattr(loss, "__module__", None) == F.__name__


def find_target(raw: Any, target: Target | None) -> Any:
    """What of an item of a loader the label is.

    Args:
        raw: The item.
        target: A key or a position, or a function of the item; None: the second of two, or `labels`
            or `label` of a mapping.

    Raises:
        ValueError: If there is none, or more than one.
    """
    if callable(target):
        return target(raw)
    if target is not None:
        try:
            return raw[target]
        except (KeyError, IndexError, TypeError) as error:
            raise LossError(
                f"`target` must be a key or position of the batch. Got {target!r}; the batch "
                f"is {_described(raw)}. Pass a function of the batch for other places."
            ) from error
    if isinstance(raw, (tuple, list)) and len(raw) == 2:
        return raw[1]
    if isinstance(raw, Mapping):
        found = [key for key in _KEYS if key in raw]
        if len(found) == 1:
            return raw[found[0]]
        if found:
            raise LossError(
                "`target` must say which are the labels. Got none for a batch with both "
                "'labels' and 'label'. Pass `target='labels'`, or the other."
            )
    raise LossError(
        f"`target` must say where the labels are. Got none for a batch that is {_described(raw)}: "
        "only of two things the second, and of a mapping 'labels' or 'label', is taken for them. "
        "Pass a key or position, or a function of the batch."
    )


def _described(raw: Any) -> str:
    if isinstance(raw, Mapping):
        return f"a mapping of {', '.join(map(repr, raw))}"
    if isinstance(raw, (tuple, list)):
        return f"a {type(raw).__name__} of {len(raw)}"
    return f"a {type(raw).__name__} alone"


def check_target(found: Any, size: int) -> Tensor:
    """Labels `[N, ...]` of a batch of so many samples.

    Raises:
        TypeError: If they are no tensor.
        ValueError: If there is not one entry a sample.
    """
    if not isinstance(found, Tensor):
        names = isinstance(found, (list, tuple)) and any(isinstance(each, str) for each in found)
        advice = "Give each class a number." if names else "Collate them in the loader."
        raise fail_type("target", "labels that are a tensor [N, ...]", found, advice)
    if found.dim() == 0 or len(found) != size:
        raise fail(
            "target",
            f"labels with one entry for each of {size} samples",
            found,
            "Pass `target=`, the key or position of the labels in the batch, if it is elsewhere.",
        )
    return found


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
            return _indices(target, positions, shape[-1])
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


def _indices(target: Tensor, positions: Sequence[int], classes: int) -> Tensor:
    found = target.long()
    if not positions and found.dim() == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if list(found.shape[1:]) != list(positions):
        rows = found.dim() == len(positions) + 2 and classes in found.shape[1:]
        advice = "Of one-hot rows pass `.argmax` of the classes, or `.float()`." if rows else ""
        raise fail("target", f"class indices [N{_more(positions)}]", target, advice)
    wrong = ((found < 0) | (found >= classes)) & (found != _IGNORED)
    if bool(wrong.any()):
        at = wrong.nonzero()[0].tolist()
        place = f" at {at[1:]}" if at[1:] else ""
        raise ArgumentError(
            f"`target` must be class indices from 0 to {classes - 1}, or {_IGNORED} for what is "
            f"left out. Got {int(found[tuple(at)])} for sample {at[0]} of a batch{place}.",
            "target",
        )
    return found


def _check_chances(target: Tensor) -> None:
    """Raises unless labels of a logit each, which are 0 and 1, can be such or chances of such."""
    wrong = ((target < 0) | (target > 1)) & (target != _IGNORED)
    if bool(wrong.any()):
        at = wrong.nonzero()[0].tolist()
        raise ArgumentError(
            f"`target` must be labels from 0 to 1, or {_IGNORED} for what is left out, where each "
            f"logit is a label of its own. Got {target[tuple(at)].item():g} for sample {at[0]} of "
            "a batch. Write labels of -1 and 1 as 0 and 1; of class indices the model has one "
            "logit each.",
            "target",
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
