"""Normalisation layers: the rule of their scale and shift."""

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.fused_norms import batch_norm, group_norm, instance_norm
from fastgradnorm._operations.operation import Operation, ruled
from fastgradnorm._operations.rows import position_rows
from fastgradnorm._operations.rules import Call, Rule, Saved, Shape
from fastgradnorm._operations.single_level import is_frozen, plain


def _affine(
    normalize: Callable[..., Tensor],
    saved: tuple[Tensor, ...],
    rows: Callable[[Tensor], Tensor],
    channels: int,
    tracked: Collection[str],
) -> Rule:
    """Scale and shift of a norm layer."""

    def sq_norms(saved: Saved, g: Tensor) -> dict[str, Tensor]:
        if "weight" not in tracked:
            return {"bias": kernels.bias_sq_norm(rows(g))}
        x_hat = rows(normalize(*saved))
        weight, bias = kernels.affine_sq_norm(x_hat[None], rows(g)[None, None])
        return {"weight": weight[0, 0], "bias": bias[0, 0]}

    shape = Shape(saved[0].numel() // max(1, channels), 1, channels)
    return Rule(("weight", "bias"), saved, sq_norms, shape)


def _batch_norm_rule(call: Call, tracked: Collection[str]) -> Rule | None:
    if call.get("training"):  # a norm of a weight, not of activations
        return None
    x, mean, var = call["input"], call["running_mean"], call["running_var"]
    eps = call["eps"]
    rule = _affine(partial(batch_norm, eps=eps), (x, mean, var), position_rows, x.shape[1], tracked)
    # Each run has buffers of its own, copied within its transforms.
    alone = len(x) == 1 and x.device.type == "cpu" and "weight" in tracked
    statistics = (plain(mean), plain(var)) if alone and mean is not None else ()
    if not statistics or not is_frozen(*statistics):
        return rule

    def sq_norms(saved: Saved, g: Tensor) -> dict[str, Tensor]:
        x, mean, var = saved
        weight, bias = kernels.batch_norm_sq_norm(x, g[:, None], mean, var, eps)
        return {"weight": weight[0, 0], "bias": bias[0, 0]}

    return replace(rule, saved=(x, *statistics), sq_norms=sq_norms)


def _group_norm_rule(call: Call, tracked: Collection[str]) -> Rule:
    x = call["input"]
    normalize = partial(group_norm, num_groups=call["num_groups"], eps=call["eps"])
    return _affine(normalize, (x,), position_rows, x.shape[1], tracked)


def _instance_norm_rule(call: Call, tracked: Collection[str]) -> Rule | None:
    x = call["input"]
    if x.dim() < 3:
        return None
    if not call["use_input_stats"]:
        return _batch_norm_rule(call, tracked)
    normalize = partial(F.instance_norm, eps=call["eps"])
    return _affine(normalize, (x,), position_rows, x.shape[1], tracked)


def _trailing_norm_rule(
    function: Callable[..., Tensor], call: Call, tracked: Collection[str]
) -> Rule:
    """Layer and RMS norm: scale and shift per entry of the trailing dimensions."""
    shape, eps, x = tuple(call["normalized_shape"]), call["eps"], call["input"]
    entries = int(torch.Size(shape).numel())

    def normalize(x: Tensor) -> Tensor:
        return function(x, shape, eps=eps)

    def rows(t: Tensor) -> Tensor:
        return t.reshape(-1, entries)

    return _affine(normalize, (x,), rows, entries, tracked)


_PARAMETERS: dict[str, Any] = {"weight": None, "bias": None}


def _wide_within(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, as its kernel takes inputs narrower than parameters; vmap's rules mix dtypes."""

    @functools.wraps(function)
    def form(input: Tensor, *args: Any, **named: Any) -> Tensor:
        dtypes = [t.dtype for t in (input, *args, *named.values()) if isinstance(t, Tensor)]
        wide = functools.reduce(torch.promote_types, dtypes)
        if wide == input.dtype or (input.is_cuda and torch.is_autocast_enabled("cuda")):
            return function(input, *args, **named)
        return function(input.to(wide), *args, **named).to(input.dtype)

    return form


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """`F.rms_norm`; on a GPU by its formula, as vmap has no rule for its fused kernel there."""
    function = rms_norm_formula if input.is_cuda else F.rms_norm
    return function(input, normalized_shape, weight, eps)


def rms_norm_formula(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """`F.rms_norm`, as PyTorch computes it where it has no kernel."""
    wide = input.to(torch.promote_types(input.dtype, torch.float32))
    eps = torch.finfo(wide.dtype).eps if eps is None else eps
    dims = tuple(range(-len(normalized_shape), 0))
    output = wide * (wide.square().mean(dims, keepdim=True) + eps).rsqrt()
    output = output if weight is None else output * weight
    return output.to(input.dtype)


OPERATIONS: dict[Callable[..., Any], Operation] = {
    F.batch_norm: ruled(
        _batch_norm_rule,
        "input running_mean running_var",
        form=batch_norm,
        **_PARAMETERS,
        training=False,
        momentum=0.1,
        eps=1e-5,
    ),
    F.group_norm: ruled(
        _group_norm_rule, "input num_groups", form=group_norm, **_PARAMETERS, eps=1e-5
    ),
    F.instance_norm: ruled(
        _instance_norm_rule,
        "input",
        form=_wide_within(instance_norm),
        running_mean=None,
        running_var=None,
        **_PARAMETERS,
        use_input_stats=True,
        momentum=0.1,
        eps=1e-5,
    ),
    F.layer_norm: ruled(
        partial(_trailing_norm_rule, F.layer_norm),
        "input normalized_shape",
        form=_wide_within(F.layer_norm),
        **_PARAMETERS,
        eps=1e-5,
    ),
    F.rms_norm: ruled(
        partial(_trailing_norm_rule, rms_norm),
        "input normalized_shape",
        form=rms_norm,
        weight=None,
        eps=None,
    ),
    torch.rms_norm: ruled(
        partial(_trailing_norm_rule, rms_norm),
        "input normalized_shape",
        form=rms_norm,
        weight=None,
        eps=None,
    ),
}
