"""Labels that by their numbers are not what a named loss takes them for."""

import torch
from torch import Tensor

from fastgradnorm._model import Batch
from fastgradnorm._witness.findings import Finding

_ROUNDED = 0.02  # what rounding in half precision, or to two digits, takes off a sum of chances
_IGNORED = -100


def labels_found(batch: Batch, class_dim: int) -> list[Finding]:
    """Looks at the labels of a batch, which are of classes that exclude each other."""
    if batch.target is None:
        return []
    return [*_sums(batch.target, class_dim), *_inputs(batch.target, batch)]


def _inputs(target: Tensor, batch: Batch) -> list[Finding]:
    """Whether the label of each position is the word that the model is given there."""
    counted = target != _IGNORED
    if target.dim() < 2 or target.is_floating_point() or target.numel() == len(target):
        return []
    if not bool(counted.any()) or bool((target == target.flatten()[0]).all()):
        return []
    for leaf in batch.leaves:
        alike = leaf.shape == target.shape and leaf.dtype == target.dtype
        if alike and bool((leaf == target)[counted].all()):
            message = (
                "`target` must be what the model is to predict at each position. Got the model's "
                "own inputs, in place: a causal language model is trained on the word that "
                "follows. Pass `loss='model'` if the model shifts its labels itself, as those of "
                "the transformers library do; else shift them in the loader."
            )
            return [Finding("labels are inputs", message)]
    return []


def _sums(target: Tensor, class_dim: int) -> list[Finding]:
    """Looks at labels `[N, C, *positions]` that are taken for probabilities of the classes."""
    if not target.is_floating_point() or not -target.dim() <= class_dim < target.dim():
        return []
    given = target.detach().double()
    sums = given.sum(class_dim).flatten(1) if given.dim() > 2 else given.sum(class_dim)[:, None]
    left_out = (sums == 0) & (target.dim() > 2)  # positions without a label
    sums = torch.where(left_out, 1.0, sums)
    wrong = ((sums - 1).abs() > _ROUNDED).any(-1).nonzero()
    if not len(wrong):
        return []
    row = int(wrong[0])
    found = float(sums[row][(sums[row] - 1).abs().argmax()])
    many = bool(((given == 0) | (given == 1)).all())
    said = "zeros and ones that" if many else "numbers that"
    message = (
        "`target` must be probabilities of the classes, which sum to one, for likelihood="
        f"'categorical'. Got {said} sum to {found:g} for sample {row} of the first batch: scores "
        "are of a softmax, with one answer a sample. Pass `likelihood='bernoulli'` if each class "
        "is a label of its own; else divide labels by their sum."
    )
    return [Finding("label sums", message)]
