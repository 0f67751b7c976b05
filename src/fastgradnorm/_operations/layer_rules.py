"""Rules of linear, normalisation and embedding layers."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._errors import UnsupportedModelError
from fastgradnorm._operations.norms import batch_norm, group_norm
from fastgradnorm._operations.rules import Call, Joint, Rule, Shape, add, outer_sq_norm

Saved = Sequence[Tensor]


def outer_rule(
    saved: tuple[Tensor, ...],
    joint: Joint,
    shape: Shape,
    backend: str,
    groups: int = 1,
    bias: str | None = None,
    rows: Callable[[Tensor], Tensor] | None = None,
) -> Rule:
    """The rule of a parameter whose gradient is a sum of outer products.

    `bias` is the argument added at every position, if that is tracked too; `rows` gives the output
    gradient as `[T, O]`.
    """

    def sq_norms(saved: Saved, g: Tensor) -> dict[str, Tensor]:
        norms = {joint.slot: outer_sq_norm(*joint.parts(saved, g), backend)}
        if bias is not None and rows is not None:
            norms[bias] = kernels.bias_sq_norm(rows(g))
        return norms

    slots = (joint.slot,) if bias is None else (joint.slot, bias)
    return Rule(slots, saved, sq_norms, shape, groups, joint)


def _linear(call: Call, tracked: Collection[str], backend: str) -> Rule:
    x: Tensor = call["input"]
    outputs, inputs = call["weight"].shape

    def rows(g: Tensor) -> Tensor:
        return g.reshape(-1, outputs)

    def parts(saved: Saved, g: Tensor) -> tuple[Tensor, Tensor]:
        return saved[0].reshape(1, -1, inputs), rows(g)[None]

    shape = Shape(x.numel() // max(1, inputs), inputs, outputs)
    bias = "bias" if "bias" in tracked else None
    return outer_rule((x,), Joint("outer", "weight", parts), shape, backend, 1, bias, rows)


def channels_last(x: Tensor) -> Tensor:
    """`[B, C, *space]` as `[B * positions, C]`, a view where B is 1."""
    return x.flatten(2).mT[0] if len(x) == 1 and x.dim() > 2 else x.movedim(1, -1).flatten(0, -2)


def _affine(
    normalize: Callable[..., Tensor],
    saved: tuple[Tensor, ...],
    rows: Callable[[Tensor], Tensor],
    channels: int,
    tracked: Collection[str],
    backend: str,
) -> Rule:
    """Scale and shift of a norm layer."""

    def sq_norms(saved: Saved, g: Tensor) -> dict[str, Tensor]:
        if "weight" not in tracked:
            return {"bias": kernels.bias_sq_norm(rows(g))}
        x_hat = rows(normalize(*saved))
        weight, bias = kernels.affine_sq_norm(x_hat[None], rows(g)[None, None], backend)
        return {"weight": weight[0, 0], "bias": bias[0, 0]}

    shape = Shape(saved[0].numel() // max(1, channels), 1, channels)
    return Rule(("weight", "bias"), saved, sq_norms, shape)


def _batch_norm(call: Call, tracked: Collection[str], backend: str) -> Rule:
    x, mean, var = call["input"], call["running_mean"], call["running_var"]
    normalize = partial(batch_norm, eps=call["eps"])
    return _affine(normalize, (x, mean, var), channels_last, x.shape[1], tracked, backend)


def _group_norm(call: Call, tracked: Collection[str], backend: str) -> Rule:
    x = call["input"]
    normalize = partial(group_norm, num_groups=call["num_groups"], eps=call["eps"])
    return _affine(normalize, (x,), channels_last, x.shape[1], tracked, backend)


def _instance_norm(call: Call, tracked: Collection[str], backend: str) -> Rule | None:
    x = call["input"]
    if x.dim() < 3:
        return None
    if not call["use_input_stats"]:
        return _batch_norm(call, tracked, backend)
    normalize = partial(F.instance_norm, eps=call["eps"])
    return _affine(normalize, (x,), channels_last, x.shape[1], tracked, backend)


def _trailing_norm(
    function: Callable[..., Tensor], call: Call, tracked: Collection[str], backend: str
) -> Rule:
    """Layer and RMS norm: scale and shift per entry of the trailing dimensions."""
    shape, eps, x = tuple(call["normalized_shape"]), call["eps"], call["input"]
    entries = int(torch.Size(shape).numel())

    def normalize(x: Tensor) -> Tensor:
        return function(x, shape, eps=eps)

    def rows(t: Tensor) -> Tensor:
        return t.reshape(-1, entries)

    return _affine(normalize, (x,), rows, entries, tracked, backend)


def _embedding(call: Call, tracked: Collection[str], backend: str) -> Rule:
    ids, weight, padding = call["input"], call["weight"], call["padding_idx"]
    if call["scale_grad_by_freq"]:
        raise UnsupportedModelError(
            "an embedding with `scale_grad_by_freq=True` scales its gradient by counts over the "
            "whole batch. Set it to False."
        )
    if padding is not None and padding < 0:
        padding += len(weight)
    width = weight.shape[1]

    def parts(saved: Saved, g: Tensor) -> tuple[Tensor, Tensor]:
        return saved[0].reshape(-1), g.reshape(-1, width)

    def sq_norms(saved: Saved, g: Tensor) -> dict[str, Tensor]:
        ids, rows = parts(saved, g)
        norm: Tensor = kernels.embedding_sq_norm(ids[None], rows[None, None], padding, backend)
        return {"weight": norm[0, 0]}

    joint = Joint("rows", "weight", parts, padding)
    return Rule(("weight",), (ids,), sq_norms, Shape(ids.numel(), 1, width), joint=joint)


_NORM: dict[str, Any] = {"weight": None, "bias": None}

add(F.linear, _linear, "input weight", bias=None)
add(
    F.batch_norm,
    _batch_norm,
    "input running_mean running_var",
    **_NORM,
    training=False,
    momentum=0.1,
    eps=1e-5,
)
add(
    F.layer_norm, partial(_trailing_norm, F.layer_norm), "input normalized_shape", **_NORM, eps=1e-5
)
add(
    F.rms_norm, partial(_trailing_norm, F.rms_norm), "input normalized_shape", weight=None, eps=None
)
add(F.group_norm, _group_norm, "input num_groups", **_NORM, eps=1e-5)
add(
    F.instance_norm,
    _instance_norm,
    "input",
    running_mean=None,
    running_var=None,
    **_NORM,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
)
add(
    F.embedding,
    _embedding,
    "input weight",
    padding_idx=None,
    max_norm=None,
    norm_type=2.0,
    scale_grad_by_freq=False,
    sparse=False,
)
