"""Metrics of Adam, RMSprop and Adagrad: what an optimizer's steps multiply gradients by."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from fastgradnorm_kernels import accumulation_dtype
from torch import Tensor, nn

from fastgradnorm._validate import fail, fail_type

# Which have second moments, but divide by something else: RAdam by a rectified one or by nothing,
# SparseAdam by one to which epsilon is added before it is corrected.
_OTHERWISE = (torch.optim.RAdam, torch.optim.SparseAdam)
_WANTED = "an Adam, RMSprop or Adagrad optimizer that has stepped on the model's parameters"


def metric_of(
    model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> dict[str, Tensor] | None:
    """What a gradient is multiplied by in a step, by parameter: `1 / (√v̂ + ε)`.

    Of the parameters that the optimizer has second moments of; None without an optimizer.

    Raises:
        TypeError: If it is no optimizer.
        ValueError: If it has second moments of no parameter, or divides by something else.
    """
    if optimizer is None:
        return None
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise fail_type("metric", "an optimizer of torch.optim, or None", optimizer)
    if isinstance(optimizer, _OTHERWISE):
        told = "Its steps divide gradients by something else than √v̂ + ε."
        raise fail("metric", _WANTED, type(optimizer).__name__, told)
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    found: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state, name = optimizer.state.get(parameter, {}), names.get(id(parameter))
            scale = None if name is None else _scale(parameter, state, group)
            if name is not None and scale is not None:
                found[name] = scale
    if not found:
        first = next(iter(names.values()), "any parameter")
        told = f"It has no second moments of `{first}`."
        if isinstance(optimizer, torch.optim.SGD):
            told = "Its steps divide gradients by nothing: leave `metric` out."
        raise fail("metric", _WANTED, type(optimizer).__name__, told)
    return found


def _scale(parameter: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor | None:
    """Of one parameter; in float32 at least, whatever the moments are kept in."""
    steps = state.get("step", group.get("step"))
    if not steps or "eps" not in group:
        return None
    moments = _moments(state, group, float(steps))
    like = torch.view_as_real(parameter) if parameter.is_complex() else parameter
    if moments is None or moments.shape != like.shape:
        return None
    root = moments.sqrt()
    scale: Tensor = 1 / (root + float(group["eps"]))
    return scale


def _moments(state: Mapping[str, Any], group: Mapping[str, Any], steps: float) -> Tensor | None:
    """What a step takes the square root of; None: not of an optimizer that is known."""
    if state.get("exp_avg_sq") is not None and "betas" in group:  # Adam
        largest = bool(group.get("amsgrad")) and "max_exp_avg_sq" in state
        moments = _wide(state.get("max_exp_avg_sq" if largest else "exp_avg_sq"))
        correction = 1 - float(group["betas"][1]) ** float(steps)
        corrected: Tensor = moments / correction
        return corrected
    if "square_avg" in state and "alpha" in group:  # RMSprop
        moments = _wide(state["square_avg"])
        if not group.get("centered"):
            return moments
        return (moments - _wide(state["grad_avg"]).square()).clamp_min(0)
    if "sum" in state and "lr_decay" in group:  # Adagrad
        return _wide(state["sum"])
    return None


def _wide(moments: Any) -> Tensor:
    """In float32 at least, complex numbers as two."""
    moments = torch.view_as_real(moments) if moments.is_complex() else moments
    wide: Tensor = moments.detach().to(accumulation_dtype(moments.dtype))
    return wide


def check_metric(scales: Mapping[str, Tensor] | None, names: Collection[str]) -> None:
    """Raises if there is a metric, but not of all of these parameters."""
    missing = [] if scales is None else [name for name in names if name not in scales]
    if missing:
        got = f"one with no second moments of `{missing[0]}`"
        raise fail("metric", _WANTED, got, "Train that too, or leave it out by `params`.")
