"""Frameworks hand out loaders of their own, and match scores with samples by their places."""

from typing import Any

import torch
from torch import Tensor

from fastgradnorm import GradNormScorer, PoolScores


def scores_by_sample(model: Any, loader: Any, **options: Any) -> Any:
    """As `score_pool`, but in the order of `loader.dataset`, whatever order the loader has.

    Raises:
        ValueError: If the loader leaves samples out, and as `fastgradnorm.score_pool` does.
    """
    scorer: GradNormScorer[Any, Any] = GradNormScorer(model, **options)
    scorer.options.refuse_subset("score_pool")
    found = scorer.score(loader)
    if isinstance(found, PoolScores):
        return _in_order(found)
    return {scheme: _in_order(scores) for scheme, scores in found.items()}


def _in_order(scores: PoolScores) -> Tensor:
    size = scores.provenance["samples"]["dataset"] or len(scores)
    indices = torch.arange(len(scores), device="cpu") if scores.indices is None else scores.indices
    if len(indices.unique()) < size:
        raise ValueError(
            f"The framework's loader must read all of its {size} samples. Got "
            f"{len(indices.unique())} of them. For prediction, set drop_last=False and no sampler "
            "that leaves some out."
        )
    values = torch.empty(size, dtype=scores.values.dtype, device="cpu")
    values[indices] = scores.values
    return values
