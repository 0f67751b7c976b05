"""Whether a model or its loss makes a sample depend on the others in its batch.

A loss is given one sample at a time. What it is by the caller's own call on two tells whether that
is what its owner means: the gradient at a sample's logits may be scaled by company, as by a mean,
and not turned.
"""

import math
import warnings

import torch
from torch import Tensor

from fastgradnorm._errors import NOT_THE_MODELS, BatchDependenceWarning, UnsupportedModelError
from fastgradnorm._model import Batch
from fastgradnorm._process import is_out_of_memory
from fastgradnorm._witness.company import differ, mixing_layer
from fastgradnorm._witness.own_call import OwnModel

# Of logits, relative to the largest; and cosines of directions, which are of second order.
_ROUNDING, _HALF = 1e-3, 5e-2
_TURNED, _TURNED_HALF = 1 - 1e-6, 0.99
_DIGITS = 2e-6  # of the size of the logits, or of 1: what rounding leaves of a gradient at them


def check_company(own: OwnModel, pair: Batch) -> None:
    """Compares logits and the loss's gradients at them of two samples together and of each alone.

    Raises:
        UnsupportedModelError: If company changes a sample's logits, or its loss is nothing alone.
    """
    if len(pair) < 2:
        return
    try:
        together = own.at_logits(pair)
        alone = [own.at_logits(pair.take(slice(i, i + 1))) for i in range(len(pair))]
    except NOT_THE_MODELS:
        raise
    except Exception as error:  # one that takes single samples alone, or returns no logits
        if is_out_of_memory(error):
            raise
        return
    logits, slopes = together
    if len(logits) != len(pair) or any(z.shape[1:] != logits.shape[1:] for z, _ in alone):
        return
    most = _HALF if own.narrow else _ROUNDING
    for i, (z, _) in enumerate(alone):
        difference = differ(logits[i], z[0])
        if difference > most:
            layer = mixing_layer(own, pair, i)
            raise UnsupportedModelError(
                f"{layer} gives a sample other values in a batch than alone: in the model's own "
                f"call on {len(pair)} samples its logits differ by {difference:.2g} of the "
                "largest. Such a sample has no gradient of its own. Look for means, softmax or "
                "attention over the first dimension."
            )
    if slopes is not None:
        for i, (z, slope) in enumerate(alone):
            least = _TURNED_HALF if own.narrow else _TURNED
            noise = _DIGITS * max(1.0, float(z.abs().max()) if z.numel() else 0.0)
            if _is_turned(slopes[i], None if slope is None else slope[0], least, noise):
                return  # told once


def _is_turned(company: Tensor, alone: Tensor | None, least: float, noise: float) -> bool:
    """Whether company turns the gradient of the loss at one sample's logits, which is told.

    What is across the gradient alone, and no longer than `noise`, may be rounding: gradients of a
    student near its teacher are differences of numbers of the size of the logits.
    """
    a = company.double().flatten()
    b = torch.zeros_like(a) if alone is None else alone.double().flatten()
    sizes = float(a.norm()), float(b.norm())
    if sizes[0] == 0 or not all(map(math.isfinite, sizes)):
        return False
    along = b / sizes[1] if sizes[1] > 0 else b
    if float((a - (a @ along).clamp_min(0) * along).norm()) <= noise:
        return False
    if sizes[1] == 0:
        raise UnsupportedModelError(
            "`loss` must not mix samples. Got one whose gradient at a sample's logits is zero for "
            "that sample alone, and is not in a batch of two: it compares samples with each other. "
            "Such a loss has no gradient a sample."
        )
    turned = float((a / sizes[0]) @ (b / sizes[1]))
    if turned < least:
        warnings.warn(
            "`loss` gives a sample another gradient in a batch of two than alone, not only a "
            f"smaller one (their directions have a cosine of {turned:.6g}): it mixes samples, as "
            "a ratio of sums over the batch does. Each is scored as if it were alone.",
            BatchDependenceWarning,
            stacklevel=2,
        )
    return turned < least
