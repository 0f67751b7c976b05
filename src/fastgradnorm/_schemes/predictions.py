"""What logits say of a sample, in a few numbers: the classes, and how sure the model is."""

import torch
from fastgradnorm_kernels import accumulation_dtype
from torch import Tensor

from fastgradnorm._schemes.posterior import posterior

# Of each sample, `[N]`: of many positions their means.
NUMBERS = (
    "predicted",
    "confidence",
    "runner_up",
    "runner_up_probability",
    "predictive_entropy",
    "margin",
    "doubt",
)


def predictions(
    logits: Tensor, valid: Tensor | None, likelihood: str, whole: bool = False
) -> dict[str, Tensor]:
    """Numbers of each sample, from logits `[N, *positions, C]`.

    Args:
        logits: Over the temperature.
        valid: Which positions count, `[N, *positions]`; None: all.
        likelihood: `"categorical"`, or `"bernoulli"`: each logit is a label of its own, the most
            probable of which is called predicted.
        whole: Also `probabilities` and `residuals` `[N, C]`.

    Returns:
        The columns `NUMBERS`: `margin` is `1 - (p₁ - p₂)`, `doubt` is `1 - p₁`.
    """
    z = logits.to(accumulation_dtype(logits.dtype))
    labels = likelihood == "bernoulli"
    if labels:  # each label is a choice between two classes, of logits 0 and z
        z = torch.stack([torch.zeros_like(z), z], -1)
        valid = None if valid is None else valid[..., None].expand(z.shape[:-1])
        if z.shape[1:-1].numel() == 1:
            z, labels = z.reshape(len(z), 2), False
            valid = None
    post = posterior(z)
    p = post.p
    two = p.topk(2, -1)
    doubt = post.om[..., 0]
    log_p = z.log_softmax(-1)
    spread = -torch.where(p > 0, p * log_p, 0.0).sum(-1)
    classes = p[..., 1] if labels else p
    mean = _Mean(valid, p.shape[:-1])
    by_class = _by_class(classes, mean, labels)
    if by_class.shape[-1] == 1:
        by_class = torch.cat([by_class, torch.zeros_like(by_class)], -1)
    best = by_class.topk(2, -1)
    found = {
        "predicted": best.indices[:, 0].to(z.dtype),
        "confidence": best.values[:, 0],
        "runner_up": best.indices[:, 1].to(z.dtype),
        "runner_up_probability": best.values[:, 1],
        "predictive_entropy": mean(spread),
        "margin": mean(doubt + two.values[..., 1]),
        "doubt": mean(doubt),
    }
    if whole:
        found["probabilities"] = by_class
        if p.dim() == 2:
            found["residuals"] = post.residual
    return found


def _by_class(classes: Tensor, mean: "_Mean", labels: bool) -> Tensor:
    """`[N, C]`: the mean over positions of the probabilities `[N, *positions, C]`."""
    if not labels:
        return mean(classes)
    # Labels are positions to all but this: over what is before them.
    if classes.dim() == 2:
        return classes
    valid = None if mean.valid is None else mean.valid[..., 0]
    return _Mean(valid, classes.shape[:-1])(classes)


class _Mean:
    """The mean over the valid of some positions `[N, *positions]`."""

    def __init__(self, valid: Tensor | None, shape: torch.Size) -> None:
        self.valid, self._positions = valid, len(shape) - 1

    def __call__(self, values: Tensor) -> Tensor:
        """Of values `[N, *positions, ...]`."""
        if not self._positions:
            return values
        rows = values.flatten(1, self._positions)
        if self.valid is None:
            return rows.mean(1)
        weights = self.valid.flatten(1).to(rows.dtype)
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1)
        return torch.einsum("nt,nt...->n...", weights, rows)
