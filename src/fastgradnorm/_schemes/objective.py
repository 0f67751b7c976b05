r"""Each scheme as cotangents to pull back from the logits, and how their norms become a score.

Each cotangent is divided by its largest entry before it is pulled back, so that no gradient
underflows, and its norm multiplied by it after.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from fastgradnorm_kernels import accumulation_dtype
from torch import Tensor

from fastgradnorm._schemes.gaussian import check_gaussian, jacobian
from fastgradnorm._schemes.labelled import labelled_pull_backs
from fastgradnorm._schemes.losses import LABELLED_SCHEMES, LabelledScheme
from fastgradnorm._schemes.posterior import (
    Posterior,
    label_cotangents,
    posterior,
    sums_up_to,
    unit_sized,
)
from fastgradnorm._schemes.pull_backs import PullBacks, Term
from fastgradnorm._schemes.table import TABLE, Scheme
from fastgradnorm._validate import fail

Likelihood = Literal["categorical", "bernoulli", "gaussian"]
# The group of cotangents that the averages over the labels share; the others have one of their own.
_LABELS = "labels"


class Asked(Protocol):
    """What of the options concerns schemes: see `Options`."""

    @property
    def schemes(self) -> tuple[Scheme | LabelledScheme, ...]: ...
    @property
    def loss(self) -> Any: ...
    @property
    def likelihood(self) -> Literal["auto", "categorical", "bernoulli", "gaussian"]: ...
    @property
    def num_samples(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def rtol(self) -> float: ...


def make_objective(options: Asked, logits_shape: Sequence[int]) -> "Objective":
    """The objective for logits `[*positions, C]`: `likelihood="auto"` is settled here."""
    likelihood, classes = options.likelihood, logits_shape[-1]
    if likelihood == "auto":
        likelihood = "bernoulli" if classes == 1 else "categorical"
    plain: tuple[Any, ...] = tuple(s for s in options.schemes if s not in LABELLED_SCHEMES)
    labelled: tuple[Any, ...] = tuple(s for s in options.schemes if s in LABELLED_SCHEMES)
    if likelihood == "gaussian":
        check_gaussian(plain)
    values = not plain and labelled == ("loss",) and options.loss != "cross_entropy"
    if likelihood == "categorical" and classes < 2 and not values:
        raise fail(
            "likelihood",
            f"'bernoulli' or 'auto' for {classes} logit",
            likelihood,
            "A softmax over one class is always 1 and has no gradient.",
        )
    loss = options.loss if isinstance(options.loss, str) and options.loss != "model" else None
    given = options.num_samples, options.seed, options.rtol
    return Objective(plain, likelihood, *given, labelled=labelled, loss=loss)


@dataclass(frozen=True)
class Objective:
    """The schemes asked for, under one likelihood.

    Attributes:
        schemes: Names of those that ask for no label, in any order.
        likelihood: Softmax over the last dimension of the logits, or a sigmoid on each.
        num_samples: Draws where label combinations are too many to enumerate.
        seed: Of the draws.
        rtol: The relative standard error to reach; 0 is exact.
        tables: On a device, made once: a copy to it in every pass would have the host wait for it.
        labelled: Names of those that do.
        loss: The name of a loss of the logits; None: what is pulled back from is the loss.
        as_it_is: Whether no cotangent is divided by its size, or stands for its multiples.
    """

    schemes: tuple[Scheme, ...]
    likelihood: Likelihood
    num_samples: int
    seed: int
    rtol: float = 0.0
    tables: dict[Any, Tensor] = field(default_factory=dict, compare=False, repr=False)
    labelled: tuple[LabelledScheme, ...] = ()
    loss: str | None = None
    as_it_is: bool = False

    @property
    def powers(self) -> dict[str, int]:
        """Of the schemes that are averages over the labels, the power of the norms."""
        entries = {scheme: TABLE[scheme] for scheme in self.schemes}
        return {scheme: entry.power for scheme, entry in entries.items() if entry.averaged}

    @property
    def own(self) -> dict[Scheme, Callable[[Posterior], Tensor]]:
        """Of the other schemes, what makes the one cotangent."""
        return {s: make for s in self.schemes if (make := TABLE[s].cotangent) is not None}

    @property
    def has_closed_form(self) -> bool:
        """Whether the last layer's scores take no pull-back."""
        plain = all(TABLE[scheme].closed_form for scheme in self.schemes)
        return plain and not self.labelled and self.likelihood != "gaussian"

    @property
    def only_outputs(self) -> bool:
        """Whether the logits and labels alone make the scores."""
        return not self.schemes and self.labelled == ("el2n",)

    @property
    def needs_target(self) -> bool:
        """Whether cotangents or scores are made of labels."""
        return "el2n" in self.labelled or ("loss" in self.labelled and self.loss is not None)

    def split(self) -> tuple["Objective", "Objective"]:
        """Without the schemes that ask for a label, and those alone."""
        return replace(self, labelled=()), replace(self, schemes=())

    def can_draw(self, logits_shape: Sequence[int]) -> bool:
        """Whether some of the classes may stand for all."""
        single = len(logits_shape) == 1 and self.likelihood == "categorical"
        return self.rtol > 0 and single and logits_shape[0] > 2 and bool(self.powers)

    def count(self, logits_shape: Sequence[int]) -> int:
        """How many cotangents one sample has at most."""
        *positions, classes = logits_shape
        labelled = int("loss" in self.labelled)
        if self.likelihood == "gaussian":
            return labelled + int(np.prod(logits_shape)) * bool(self.schemes)
        if not self.schemes:
            return labelled
        single = not positions and (self.likelihood == "categorical" or classes == 1)
        if single and classes <= 2:
            return labelled + 1
        labels = classes if single else self.num_samples
        return labelled + labels * bool(self.powers) + len(self.own)

    def pull_backs(
        self, logits: Tensor, mask: Tensor | None = None, target: Tensor | None = None
    ) -> PullBacks:
        """Cotangents for one sample's logits `[*positions, C]`, valid where `mask` is."""
        found = self._pull_backs(logits, mask, target)
        return found.as_they_are() if self.as_it_is else found

    def _pull_backs(self, logits: Tensor, mask: Tensor | None, target: Tensor | None) -> PullBacks:
        if not self.labelled:
            return self._plain(logits, mask)
        given = logits, mask, target, self.loss, self.likelihood
        labelled = labelled_pull_backs(self.labelled, *given)
        return self._plain(logits, mask).joined(labelled) if self.schemes else labelled

    def _plain(self, logits: Tensor, mask: Tensor | None) -> PullBacks:
        z = logits.detach().to(accumulation_dtype(logits.dtype))
        if self.likelihood == "gaussian":
            return jacobian(z, mask, self.schemes)
        if self.likelihood == "bernoulli":
            if z.numel() == 1 and mask is None and not self.as_it_is:
                return self._single_label(z)
            mask = mask if mask is None else mask[..., None].expand(z.shape)
            # Each label is a choice between two classes, of logits 0 and z.
            pairs = torch.stack([torch.zeros_like(z), z], -1)
            return self._many(pairs, mask, lambda ct: ct[..., 1])
        if z.dim() == 1:
            one_direction = len(z) == 2 and not self.as_it_is
            return self._two_classes(z) if one_direction else self._classes(z)
        return self._many(z, mask, lambda ct: ct)

    def _assemble(self, rows: dict[str, tuple[Tensor, Tensor]], sampled: bool = False) -> PullBacks:
        """Joins cotangents `[K, ...]` and weights `[K]`: of `_LABELS`, and each other scheme's."""
        parts, terms, start = [], [], 0
        for group, (cotangents, weights) in rows.items():
            stop = start + len(cotangents)
            for scheme in self.schemes:
                entry = TABLE[scheme]
                if group == (_LABELS if entry.averaged else scheme):
                    drawn = sampled and entry.averaged
                    terms.append(Term(scheme, start, stop, weights, entry.power, drawn))
            parts.append(cotangents)
            start = stop
        return PullBacks(*unit_sized(torch.cat(parts), 1), tuple(terms))

    def _classes(self, z: Tensor) -> PullBacks:
        """A single position: each class exactly."""
        post = posterior(z)
        rows = {}
        if self.powers:
            p = post.p
            eye = torch.eye(len(z), dtype=z.dtype, device=z.device)
            rows[_LABELS] = torch.where(post.top[:, None], post.residual, p - eye), p
        for scheme, make in self.own.items():
            rows[scheme] = make(post)[None], torch.ones_like(z[:1])
        return self._assemble(rows)

    def _two_classes(self, z: Tensor) -> PullBacks:
        """Two classes: every cotangent is a multiple of `e_0 - e_1`, pulled back once."""
        post = posterior(z)
        direction = 1 - 2 * torch.arange(2, dtype=z.dtype, device=z.device)
        pq = post.p_top * post.om
        return self._one_direction(direction, pq, post.gap.sum(-1, keepdim=True).abs())

    def _single_label(self, z: Tensor) -> PullBacks:
        """One logit: a Bernoulli variable, exact as two classes."""
        pq = z.sigmoid() * (-z).sigmoid()
        return self._one_direction(torch.ones_like(z), pq.flatten(), z.flatten().abs())

    def _one_direction(self, direction: Tensor, pq: Tensor, gap: Tensor) -> PullBacks:
        terms = []
        for scheme in self.schemes:
            entry = TABLE[scheme]
            weights = entry.two_classes(pq, gap)
            squared = pq if entry.averaged else weights ** (2 / entry.power)
            terms.append(Term(scheme, 0, 1, weights, entry.power, squared=squared))
        return PullBacks(direction[None], torch.ones_like(pq), tuple(terms))

    def _many(
        self, z: Tensor, mask: Tensor | None, logit_part: Callable[[Tensor], Tensor]
    ) -> PullBacks:
        """Many independent labels `[*positions, C]`: the loss is their mean where valid."""
        post = posterior(z)
        valid = torch.ones_like(z[..., 0], dtype=torch.bool) if mask is None else mask
        share = valid.to(z.dtype) / valid.sum().clamp_min(1)  # [*positions]
        rows, sampled = {}, False
        if self.powers:
            labels, weights = self._label_maps(post, mask is None)
            sampled = weights is None
            if weights is None:
                if self.rtol > 0:
                    raise fail(
                        "rtol",
                        "0 where labels of many positions are drawn",
                        self.rtol,
                        "`num_samples` sets how many draws there are, and `PoolScores` tells the "
                        "standard error.",
                    )
                weights = torch.full_like(z.flatten()[:1], 1 / len(labels)).expand(len(labels))
            cotangents = label_cotangents(post, labels) * share[..., None]
            rows[_LABELS] = logit_part(cotangents), weights
        for scheme, make in self.own.items():
            cotangent = make(post) * share[..., None]
            rows[scheme] = logit_part(cotangent)[None], torch.ones_like(z.flatten()[:1])
        return self._assemble(rows, sampled)

    def _label_maps(self, post: Posterior, enumerable: bool) -> tuple[Tensor, Tensor | None]:
        """Label maps `[S, *positions]` with probabilities `[S]`, or None where they were drawn."""
        *positions, classes = post.top.shape
        count = int(np.prod(positions))
        if enumerable and count * np.log(classes) <= np.log(self.num_samples) + 1e-9:
            maps = self._every_map(classes, count, post.p.device).view(-1, *positions)
            chances = post.p.expand(len(maps), *post.p.shape).gather(-1, maps[..., None])
            return maps, chances.flatten(1).prod(-1)
        u = self.uniform(count, self.num_samples, post.p.dtype, post.p.device)
        below = sums_up_to(post.p)[None, ..., :-1] < u.view(-1, *positions, 1)
        return below.sum(-1), None

    def _every_map(self, classes: int, positions: int, device: torch.device) -> Tensor:
        """All label maps `[classes ** positions, positions]`."""
        key = classes, positions, device
        if key not in self.tables:
            grid = np.indices((classes,) * positions).reshape(positions, -1).T
            self.tables[key] = torch.as_tensor(grid, device=device)
        return self.tables[key]

    def uniform(
        self, positions: int, draws: int, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """`uniform_numbers` of the seed, on a device."""
        key = positions, draws, dtype, device
        if key not in self.tables:
            numbers = uniform_numbers(self.seed, positions, draws)
            self.tables[key] = torch.as_tensor(numbers, dtype=dtype, device=device)
        return self.tables[key]


def uniform_numbers(seed: int, positions: int, draws: int) -> np.ndarray:
    """`[draws, positions]`; those of a position do not depend on how many positions follow it."""
    generator = np.random.Generator(np.random.Philox(seed))
    return generator.random((positions, draws)).T.copy()


def total_norms(sq_norms: Tensor, reduction: str) -> Tensor:
    """Norm over all parameters `[..., P]`, or the sum of the norms of each."""
    sq_norms = sq_norms.clamp_min(0)
    if reduction == "per_tensor":
        return sq_norms.sqrt().sum(-1)
    return sq_norms.sum(-1).sqrt()
