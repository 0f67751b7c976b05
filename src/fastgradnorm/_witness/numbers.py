"""Outputs that by their numbers are no logits.

Logits are any numbers; so that ordinary ones are never suspected, numbers alone count only where
chance cannot be behind them, and else together with the operation that made them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgradnorm._witness.findings import Finding

_SQUASHING = ("Sigmoid", "Hardsigmoid", "SpecialNdtr", "Erf")
_NEAR, _EACH = 0.05, 8  # of values between two ends, so many within so little of either
_LINEAR = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear", "Mv", "Addmv")


def probabilities(logits: Tensor, operations: Sequence[str], likelihood: str) -> list[Finding]:
    """Looks at rows `[n, *positions, C]`.

    Args:
        logits: Of several samples.
        operations: The last ones that made them, the last first.
        likelihood: Under which they are scored.
    """
    z = logits.detach().double()
    if z.numel() == 0 or not bool(((z >= 0) & (z <= 1)).all()):
        return []
    if _sums_to_one(z, operations, logits.dtype):
        said = "rows that lie within [0, 1] and sum to one" if z.shape[-1] > 1 else "ones alone"
        return [_finding(said, "a softmax", likelihood, "torch.log(model(batch))")]
    squashed = any(name.startswith(_SQUASHING) for name in operations)
    by_hand = "Tanh" in operations[1:] or {"Reciprocal", "Exp"} <= {*operations}
    if squashed or by_hand or _bounded(z, operations):
        said = "values that all lie within [0, 1]"
        return [_finding(said, "a sigmoid", likelihood, "torch.logit(model(batch), eps=1e-6)")]
    return []


def _sums_to_one(z: Tensor, operations: Sequence[str], dtype: torch.dtype) -> bool:
    rows = z.reshape(-1, z.shape[-1])
    slack = 8 * torch.finfo(dtype).eps * max(4, rows.shape[-1]) ** 0.5
    if not bool(((rows.sum(-1) - 1).abs() <= slack).all()):
        return False
    made = any("oftmax" in name for name in operations)
    one_hot = bool(((rows == 0) | (rows == 1)).all())
    # Two or more rows that say it in full precision say it by themselves; logits may be one-hot.
    return made or (not one_hot and (len(rows) > 1 or slack < 1e-4))


def _bounded(z: Tensor, operations: Sequence[str]) -> bool:
    """Whether many values come close to both 0 and 1, and none goes beyond."""
    if operations and operations[0].startswith(_LINEAR):
        return False
    inside = z[(z > 0) & (z < 1)]
    near = int((inside < _NEAR).sum()), int((inside > 1 - _NEAR).sum())
    return min(near) >= _EACH


def _finding(said: str, end: str, likelihood: str, cure: str) -> Finding:
    again = "softmax" if likelihood == "categorical" else "sigmoid"
    also = ", likelihood='bernoulli'" if "sigmoid" in end and likelihood != "bernoulli" else ""
    return Finding(
        "probabilities",
        f"`model` must return logits. Got {said}, as after {end}. Scores are of a {again} of these "
        f"probabilities, and near to the wrong order. Return what goes into {end}, or pass "
        f"`forward=lambda model, batch: {cure}`{also}.",
    )
