"""Whether a model or its loss makes a sample depend on the others in its batch.

A loss is given one sample at a time. What it is by the caller's own call on two tells whether that
is what its owner means: the gradient at a sample's logits may be scaled by company, as by a mean,
and not turned.
"""

import math
import warnings

import torch
from torch import Tensor, nn

from fastgradnorm._errors import NOT_THE_MODELS, BatchDependenceWarning, UnsupportedModelError
from fastgradnorm._model import Batch, extract
from fastgradnorm._process import is_out_of_memory
from fastgradnorm._witness.company import differ, mixing_layer
from fastgradnorm._witness.own_call import OwnModel

# Of logits, relative to the largest; and cosines of directions, which are of second order.
_ROUNDING, _HALF = 1e-3, 5e-2
_TURNED, _TURNED_HALF = 1 - 1e-6, 0.99
_DIGITS = 2e-6  # of the size of the logits, or of 1: what rounding leaves of a gradient at them


def check_company(own: OwnModel, batch: Batch) -> None:
    """Compares logits and the loss's gradients at them of samples together and of two alone.

    Where no sample alone moves a parameter, all of them together must not do so either.

    Raises:
        UnsupportedModelError: If company changes a sample's logits, or its loss is nothing alone.
    """
    if len(batch) < 2:
        return
    try:
        found = _of_two(own, batch)
        together_alone = found is None and _move_together_alone(own, batch)
    except NOT_THE_MODELS:
        raise
    except Exception as error:  # one that takes single samples alone
        if is_out_of_memory(error):
            raise
        return
    if together_alone:
        raise _mixing("gradient is zero for each of the first samples alone", "them together")
    if found is not None:
        _compare(own, batch, *found)


_AtLogits = tuple[Tensor, Tensor | None]


def _of_two(own: OwnModel, batch: Batch) -> tuple[_AtLogits, list[_AtLogits]] | None:
    """Logits and gradients at them, of all and of two alone; None if there are none at all."""
    # A model's own loss has the whole graph: two are as much as is looked at elsewhere.
    company = batch.take(slice(0, 2)) if own.subject.options.loss == "model" else batch
    try:
        together = _at_logits(own, company)
        alone = [_at_logits(own, batch.take(slice(i, i + 1))) for i in range(2)]
    except NOT_THE_MODELS:
        raise
    except Exception as error:  # of one that returns no logits, say
        if is_out_of_memory(error):
            raise
        return None
    moved = any(slope is not None and bool((slope != 0).any()) for _, slope in (together, *alone))
    return (together, alone) if moved else None


def _at_logits(own: OwnModel, batch: Batch) -> _AtLogits:
    """Logits as the model returns them, and the gradient of the loss of all at them, if any."""
    subject, given = own.subject, [leaf.clone() for leaf in batch.leaves]

    def call(model: nn.Module, _: object) -> _AtLogits:
        with subject.autocast():
            loss, output = subject.scored(model, batch, given, at_logits=True)
            logits = extract(output)
            slope = torch.autograd.grad(loss, [logits], allow_unused=True)[0]
        return logits.detach(), slope

    return own.with_graph([], call)


def _move_together_alone(own: OwnModel, batch: Batch) -> bool:
    """Whether samples move no parameter one at a time, and together do."""
    if any(_moves(own, batch.take(slice(i, i + 1))) for i in range(len(batch))):
        return False
    return _moves(own, batch)


def _moves(own: OwnModel, batch: Batch) -> bool:
    """Whether the loss of all samples, in one call, has a gradient that is not zero."""
    subject, given = own.subject, [leaf.clone() for leaf in batch.leaves]

    def call(model: nn.Module, leaves: dict[str, Tensor]) -> bool:
        with subject.autocast():
            loss, _ = subject.scored(model, batch, given)
        if not loss.requires_grad:
            return False
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        return any(bool((g.to_dense() != 0).any()) for g in found if g is not None)

    return own.with_graph(list(subject.chosen), call)


def _mixing(alone: str, company: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"`loss` must not mix samples. Got one whose {alone}, and is not so for {company}: it "
        "compares samples with each other. Such a loss has no gradient a sample."
    )


def _compare(own: OwnModel, batch: Batch, together: _AtLogits, alone: list[_AtLogits]) -> None:
    logits, slopes = together
    count = len(logits)
    if count not in (2, len(batch)) or any(z.shape[1:] != logits.shape[1:] for z, _ in alone):
        return
    most = _HALF if own.narrow else _ROUNDING
    for i, (z, _) in enumerate(alone):
        difference = differ(logits[i], z[0])
        if difference > most:
            layer = mixing_layer(own, batch.take(slice(0, count)), i)
            raise UnsupportedModelError(
                f"{layer} gives a sample other values in a batch than alone: in the model's own "
                f"call on {count} samples its logits differ by {difference:.2g} of the "
                "largest. Such a sample has no gradient of its own. Look for means, softmax or "
                "attention over the first dimension."
            )
    if slopes is None:
        return
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
        raise _mixing("gradient at a sample's logits is zero for that sample alone", "a batch")
    turned = float((a / sizes[0]) @ (b / sizes[1]))
    if turned < least:
        warnings.warn(
            "`loss` gives a sample another gradient in a batch than alone, not only a "
            f"smaller one (their directions have a cosine of {turned:.6g}): it mixes samples, as "
            "a ratio of sums over the batch does. Each is scored as if it were alone.",
            BatchDependenceWarning,
            stacklevel=2,
        )
    return turned < least
