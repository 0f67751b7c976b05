"""The one cotangent of each sample whose gradient is wanted whole, with its sign."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from fastgradnorm_kernels import accumulation_dtype
from torch import Tensor

from fastgradnorm._engine import PlainPass
from fastgradnorm._model import Batch, Subject
from fastgradnorm._operations import is_finite
from fastgradnorm._options import Options
from fastgradnorm._schemes import (
    SKETCHED,
    SketchScheme,
    labelled_pull_backs,
    make_objective,
    posterior,
    settled,
)
from fastgradnorm._witness import OwnModel, movement


@dataclass(frozen=True)
class Alone:
    """One sample's gradient by plain autograd, from the caller's own model alone on it.

    Attributes:
        number: The sample's, in its batch.
        sample: A batch of it.
        unit: What was pulled back.
        scale: What that was divided by.
        gradients: Over `scale`, one a parameter; None: it takes no part.
    """

    number: int
    sample: Batch
    unit: Tensor
    scale: Tensor
    gradients: list[Tensor | None]

    def movement(self, own: OwnModel, names: Sequence[str]) -> float:
        """How far the gradient over `scale` moves by rounding, at most."""
        given = own.subject, self.sample, names, self.unit, own.narrow
        return float(torch.linalg.vector_norm(movement(*given)))


class Pulled:
    """What is pulled back for a scheme.

    Args:
        options: All that is asked for.
        scheme: `"loss"`, or one of `SKETCHED`.
    """

    def __init__(self, options: Options, scheme: str) -> None:
        self._options, self._scheme = options, scheme

    def target(self, batch: Batch, shape: Sequence[int]) -> Tensor | None:
        """Labels `[N, ...]` as the cotangents take them; None where they need none."""
        objective = make_objective(self._options, shape)
        if batch.target is None or not objective.needs_target:
            return None
        loss, likelihood = objective.loss or "cross_entropy", objective.likelihood
        return settled(batch.target, shape, loss, likelihood, self._options.class_dim)

    def cotangent(
        self, logits: Tensor, valid: Tensor | None, target: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """For one sample's logits `[*positions, C]`: over its largest entry; and that entry."""
        objective = make_objective(self._options, logits.shape)
        if self._scheme == "loss":
            given = logits, valid, target, objective.loss, objective.likelihood
            pull_backs = labelled_pull_backs(("loss",), *given)
            return pull_backs.cotangents[0], pull_backs.scales[0]
        return scheme_cotangent(logits.detach(), valid, objective.likelihood, self._scheme)

    def of_sample(self, logits: Tensor, sample: Batch) -> tuple[Tensor, Tensor]:
        """As `cotangent`, for the logits of a batch of one."""
        valid, target = sample.valid(logits.shape), self.target(sample, logits.shape)
        parts = (None if part is None else part[0] for part in (valid, target))
        return self.cotangent(logits, *parts)

    def plain_gradients(
        self, subject: Subject, sample: Batch, names: Sequence[str]
    ) -> tuple[list[Tensor | None], Tensor]:
        """By plain autograd, of a batch of one: gradients over a scale, and that scale.

        Where gradients do not grow with what is pulled back, that is pulled back at its own size.
        """
        plain = PlainPass(subject, sample, names)
        unit, scale = self.of_sample(plain.logits, sample)
        if subject.clips:
            unit, scale = unit * scale, torch.ones_like(scale)
        return plain.gradients(unit), scale

    def alone(
        self, own: OwnModel, names: Sequence[str], batch: Batch, most: int
    ) -> Iterator[Alone]:
        """The first samples, but those whose gradient is no number by plain autograd either."""
        for i in range(min(most, len(batch))):
            sample = batch.take(slice(i, i + 1))
            run = own.gradients(sample, names)
            unit, scale = self.of_sample(run.logits[0], sample)
            gradients = list(run.gradients(0, unit))
            numbers = [scale, *(g for g in gradients if g is not None)]
            if all(
                is_finite(each.coalesce().values() if each.is_sparse else each) for each in numbers
            ):
                yield Alone(i, sample, unit, scale, gradients)


def as_long(found: Tensor, exact: Tensor) -> Tensor:
    """Products and the squared norm after them, where the gradient is over another size of it.

    A loss is divided by its own size first, which for one that cancels is another in each pass.
    """
    ratio = exact[-1] / found[-1]
    usable = ratio.isfinite() & (ratio > 0)
    powers = torch.full_like(found, 0.5)
    powers[-1] = 1
    return torch.where(usable, found * ratio**powers, found)


def scheme_cotangent(
    logits: Tensor, valid: Tensor | None, likelihood: str, scheme: SketchScheme | str
) -> tuple[Tensor, Tensor]:
    """The gradient at logits `[*positions, C]`, over its largest entry; and that entry."""
    z = logits.to(accumulation_dtype(logits.dtype))
    if likelihood == "bernoulli":  # each label is a choice between two classes, of logits 0 and z
        z = torch.stack([torch.zeros_like(z), z], -1)
        valid = None if valid is None else valid[..., None].expand(logits.shape)
    post = posterior(z)
    cotangent = SKETCHED[scheme](post)  # type: ignore[index]
    if valid is None:
        cotangent = cotangent / max(1, z[..., 0].numel())
    else:
        cotangent = cotangent * (valid.to(z.dtype) / valid.sum().clamp_min(1))[..., None]
    if likelihood == "bernoulli":
        cotangent = cotangent[..., 1]
    scale = cotangent.abs().amax().clamp_min(torch.finfo(z.dtype).tiny)
    return cotangent / scale, scale
