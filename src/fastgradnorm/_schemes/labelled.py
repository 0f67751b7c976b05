"""Pull-backs of the schemes that ask for a label."""

from collections.abc import Sequence

import torch
from fastgradnorm_kernels import accumulation_dtype
from torch import Tensor

from fastgradnorm._schemes.losses import error_norm, loss_cotangent
from fastgradnorm._schemes.posterior import unit_sized
from fastgradnorm._schemes.pull_backs import PullBacks, Term

# A loss near its minimum has a gradient as small; its cotangent is over the loss, but no less than
# this, so that neither squares of small gradients underflow nor those of others overflow.
_LEAST, _LEAST_HALF = 1e-16, 1e-3


def loss_size(loss: Tensor) -> Tensor:
    """What the cotangent of a loss is divided by, and its gradient's norm multiplied by.

    A power of two, so that a cotangent of 16 bits is exact, as the 1 of plain autograd is.
    """
    least = _LEAST_HALF if loss.dtype == torch.float16 else _LEAST
    size = loss.abs().clamp(least, 1.0).nan_to_num(1.0)
    return size.double().log2().floor().exp2().to(loss.dtype)


def labelled_pull_backs(
    schemes: Sequence[str],
    logits: Tensor,
    valid: Tensor | None,
    target: Tensor | None,
    loss: str | None,
    likelihood: str,
) -> PullBacks:
    """What to pull back for `"loss"` and `"el2n"`.

    Args:
        schemes: Those of the two that are asked for.
        logits: Of one sample `[*positions, C]`, or its loss `[1]`.
        valid: Positions that count; None: all.
        target: Its label, as `settled` gives it; None where the logits are the loss.
        loss: `"cross_entropy"` or `"mse"`; None where the logits are the loss.
        likelihood: `"categorical"` or `"bernoulli"`.
    """
    z = logits.detach().to(accumulation_dtype(logits.dtype))
    values = {}
    if "el2n" in schemes and target is not None:
        values["el2n"] = error_norm(z, target, valid, likelihood)
    if "loss" not in schemes:
        return PullBacks(z.new_zeros(0, *z.shape), z.new_zeros(0), (), values)
    one = z.new_ones(1)
    if loss is None or target is None:
        size = loss_size(logits.detach()).to(z.dtype)
        return PullBacks((1 / size)[None], size, (Term("loss", 0, 1, one, 1),), values)
    cotangent = loss_cotangent(z, target, valid, loss, likelihood)
    return PullBacks(*unit_sized(cotangent[None], 1), (Term("loss", 0, 1, one, 1),), values)
