"""Strategies: from the state of a cycle to the samples to label."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

import fastgradnorm
from fastgradnorm._selection import (
    Embedding,
    Outer,
    Rows,
    k_center,
    kmeans_pp,
    nearest_sq_distances,
)
from fastgradnorm.active._context import Context
from fastgradnorm.active._outputs import Outputs, outputs

Draw = Literal["top", "gumbel", "proportional"]
S = TypeVar("S")

_SKETCH_DIM = 512
_BADGE_DENSE_DIM = 1024


class Strategy(ABC, Generic[S]):
    """A way to choose. Subclasses give `score` and `pick`, whose seconds are told apart.

    Attributes:
        name: For results and plots.
    """

    name: str

    @abstractmethod
    def score(self, context: Context) -> S:
        """All that is computed on candidates with the model."""

    @abstractmethod
    def pick(self, context: Context, scored: S) -> Tensor:
        """Positions `[budget]` among the candidates, all different."""

    def select(self, context: Context) -> Tensor:
        """Pool indices `[budget]` to label, in the order they were chosen."""
        with context.timed("score"):
            scored = self.score(context)
        return context.indices[self.pick(context, scored)]


@dataclass(frozen=True)
class ByScore(Strategy[Tensor]):
    """The best by a score `[n]`, or drawn by it; see `fastgradnorm.select`."""

    name: str
    function: Callable[[Context], Tensor]
    draw: Draw = "top"

    def score(self, context: Context) -> Tensor:
        """The score of each candidate."""
        return self.function(context)

    def pick(self, context: Context, scored: Tensor) -> Tensor:
        """By `fastgradnorm.select`; a score of zero is drawn when no other is left."""
        if self.draw == "proportional":
            scored = scored.clamp_min(torch.finfo(scored.dtype).tiny)
        return fastgradnorm.select(scored, context.budget, strategy=self.draw, seed=context.seed)


@dataclass(frozen=True)
class Random(Strategy[None]):
    """Any of them, all alike."""

    name: str = "random"

    def score(self, context: Context) -> None:
        """Nothing."""

    def pick(self, context: Context, scored: None) -> Tensor:
        """A random subset."""
        return torch.from_numpy(context.generator().permutation(len(context.indices)))[
            : context.budget
        ]


@dataclass(frozen=True)
class KMeansPP(Strategy[tuple[Embedding, Tensor | None]]):
    """k-means++ seeding over an embedding of the candidates, weighted or not."""

    name: str
    embed: Callable[[Context], Embedding]
    weigh: Callable[[Context], Tensor] | None = None

    def score(self, context: Context) -> tuple[Embedding, Tensor | None]:
        """Points, and their weights."""
        weights = None if self.weigh is None else self.weigh(context).double().cpu()
        return self.embed(context), weights

    def pick(self, context: Context, scored: tuple[Embedding, Tensor | None]) -> Tensor:
        """Far from each other."""
        points, weights = scored
        return kmeans_pp(points, context.budget, context.generator(), weights)


@dataclass(frozen=True)
class KCenter(Strategy[Embedding]):
    """k-center greedy over an embedding of the candidates."""

    name: str
    embed: Callable[[Context], Embedding]

    def score(self, context: Context) -> Embedding:
        """Points."""
        return self.embed(context)

    def pick(self, context: Context, scored: Embedding) -> Tensor:
        """Each the farthest from all before it."""
        return k_center(scored, context.budget)


@dataclass(frozen=True)
class CoreSet(Strategy[tuple[Tensor, Tensor]]):
    """k-center greedy over the features of the last layer, from what is labelled already."""

    name: str = "coreset"

    def score(self, context: Context) -> tuple[Tensor, Tensor]:
        """Features `[n, D]` of candidates and `[m, D]` of labelled items."""
        return features(context, context.indices), features(context, context.labelled)

    def pick(self, context: Context, scored: tuple[Tensor, Tensor]) -> Tensor:
        """Each the farthest from all labelled and chosen ones."""
        candidates, labelled = scored
        reach = nearest_sq_distances(candidates, labelled) if len(labelled) else None
        return k_center(Rows(candidates), context.budget, reach)


# What a strategy's own name says, or its cycle.
_SAID = ("scheme", "params", "reduction", "seed")


@dataclass(frozen=True)
class Acquired(Strategy[fastgradnorm.Selection]):
    """A strategy of `fastgradnorm.acquire`, from what is labelled already."""

    name: str

    def score(self, context: Context) -> fastgradnorm.Selection:
        """The whole choice: one pass over the candidates, and one over what is labelled."""
        return fastgradnorm.acquire(
            context.model,
            context.candidates,
            context.budget,
            labelled=context.loader(context.labelled) if len(context.labelled) else None,
            strategy=self.name,
            seed=context.seed,
            **{name: value for name, value in context.options.items() if name not in _SAID},
        )

    def pick(self, context: Context, scored: fastgradnorm.Selection) -> Tensor:
        """What was chosen."""
        return scored.indices

    def select(self, context: Context) -> Tensor:
        """As in `Strategy`; the seconds of scoring are those that `acquire` tells."""
        made = self.score(context)
        context.seconds["score"] += made.provenance["seconds"]["score"]
        return context.indices[self.pick(context, made)]


def features(context: Context, indices: Tensor) -> Tensor:
    """What the last layer is given `[n, D]`; of dense outputs the mean over positions."""
    if not len(indices):
        return torch.empty(0, 0, dtype=torch.float64, device="cpu")
    found = (out.features for out in outputs(context, indices, features=True))
    return torch.cat([part.cpu() for part in found if part is not None])


def _over_batches(function: Callable[[Outputs], Tensor]) -> Callable[[Context], Tensor]:
    def score(context: Context) -> Tensor:
        return torch.cat([function(out).cpu() for out in outputs(context, context.indices)])

    return score


@_over_batches
def entropy(out: Outputs) -> Tensor:
    """`H(p)`, the mean over positions."""
    log_p = out.logits.log_softmax(-1)
    return out.mean(-(log_p.exp() * log_p.clamp_min(-1e300)).sum(-1))


@_over_batches
def margin(out: Outputs) -> Tensor:
    """Minus the difference of the two largest probabilities, the mean over positions."""
    first, second = out.logits.softmax(-1).topk(2, -1).values.unbind(-1)
    return out.mean(second - first)


@_over_batches
def least_confidence(out: Outputs) -> Tensor:
    """`1 - max p`, the mean over positions."""
    return out.mean(1 - out.logits.softmax(-1).amax(-1))


def badge(context: Context) -> Embedding:
    """Gradients `(p - e_ŷ) ⊗ h` of the last weight (Ash et al., 2020), as their two factors.

    The mean of such products over the positions of a dense output is no product: there, a sketch
    of the last layer's exact gradient.
    """
    u, h = [], []
    for out in outputs(context, context.indices, features=True):
        if out.dense or out.features is None:
            return sketch(context, dim=_BADGE_DENSE_DIM, params="last_layer")
        p = out.logits[:, 0].softmax(-1)
        top = torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1])
        u.append((p - top).cpu())
        h.append(out.features.cpu())
    return Outer(torch.cat(u), torch.cat(h))


def gradient_norm(context: Context, **options: Any) -> Tensor:
    """`fastgradnorm.score_pool` of the candidates."""
    scores: Tensor = fastgradnorm.score_pool(
        context.model, context.candidates, **{**context.options, **options}
    )
    return scores


def sketch(context: Context, dim: int = _SKETCH_DIM, unit: bool = False, **options: Any) -> Rows:
    """`fastgradnorm.gradient_sketch` of the candidates; divided by their norms if `unit`."""
    given = {"scheme": "predicted", "seed": context.seed, **context.options, **options}
    rows = fastgradnorm.gradient_sketch(context.model, context.candidates, dim, **given).double()
    return Rows(torch.nn.functional.normalize(rows, dim=1, eps=0) if unit else rows)
