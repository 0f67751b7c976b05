r"""Losses at known labels from the definition, in float64, as in `formulas`.

With probabilities q of the label, whose sum is Q, the cross-entropy has the gradient `Q p - q`,
whose component j is `p_j Σ_{i≠j} q_i - q_j Σ_{i≠j} p_i`: nothing cancels for a certain one.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastgradnorm._options import Options
from fastgradnorm._schemes import settled


def known_label(
    z: Tensor, valid: Tensor | None, options: Options, target: Tensor | None, is_label: bool
) -> tuple[Sequence[Tensor], Mapping[str, float]]:
    """The cotangent of the loss at logits `[*positions, C]`, and what takes none.

    Args:
        z: Of one sample, float64.
        valid: Positions that count; None: all.
        options: All that is asked for.
        target: The label, `[1, ...]` as the batch has it; None: none is.
        is_label: Whether each logit is a label of its own.
    """
    if target is None:
        return [], {}
    counted = torch.ones_like(z[..., 0]) if valid is None else valid.double()
    named = options.loss if options.loss in ("cross_entropy", "mse") else "cross_entropy"
    likelihood = "bernoulli" if is_label else "categorical"
    (label,) = settled(target, tuple(z.shape), str(named), likelihood, options.class_dim)
    if named == "mse":
        differences = (z - label.double()) * counted[..., None]
        number = float(counted.sum().clamp_min(1)) * z.shape[-1]
        return ([2 / number * differences] if "loss" in options.schemes else []), {}
    each, entries = _differences(z, label, counted, is_label)
    each = torch.where(entries > 0, each, 0.0)
    known = []
    if "loss" in options.schemes and not options.own_loss:
        known = [each / float(entries.sum().clamp_min(1))]
    if "el2n" not in options.schemes:
        return known, {}
    positions = float((entries > 0).any(-1).sum().clamp_min(1))
    return known, {"el2n": float(torch.linalg.vector_norm(each, dim=-1).sum()) / positions}


def _differences(
    z: Tensor, label: Tensor, counted: Tensor, is_label: bool
) -> tuple[Tensor, Tensor]:
    """`p - q` at each position, and what counts of it: `[*positions, C]`, or `[*positions, 1]`."""
    if is_label:
        q = label.double()
        found = torch.where(q == 1, -torch.sigmoid(-z), torch.sigmoid(z) - q)
        return found, counted[..., None] * (q != -100)
    p = torch.softmax(z, -1)
    if label.dim() == z.dim():
        q = label.double()
        certain = q == q.sum(-1, keepdim=True)
        rest = q.sum(-1, keepdim=True) - q
        found = p * rest - q * _others(p)
        return torch.where(certain, -q * _others(p), found), counted[..., None]
    at = torch.arange(z.shape[-1], device=z.device) == label[..., None]
    return torch.where(at, -_others(p), p), (counted * (label != -100))[..., None]


def _others(p: Tensor) -> Tensor:
    """`Σ_{i≠j} p_i` for each j."""
    top = torch.arange(p.shape[-1], device=p.device) == p.argmax(-1, keepdim=True)
    return torch.where(top, p.masked_fill(top, 0.0).sum(-1, keepdim=True), 1 - p)
