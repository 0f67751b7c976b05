"""Calls as users write them; mypy checks that it knows what they return. Run by a test, too."""

from typing import assert_type

import torch
from torch import Tensor, nn

from fastgradnorm import (
    GradNormScorer,
    PoolScores,
    Selection,
    acquire,
    naive_score_pool,
    score_pool,
    select,
)


def calls() -> None:
    """Each call, with what it returns."""
    model, loader = nn.Linear(3, 2), [torch.eye(3)]
    assert_type(score_pool(model, loader), Tensor)
    assert_type(score_pool(model=model, loader=loader, scheme="entropy", rtol=0.1), Tensor)
    assert_type(score_pool(model, loader, params=lambda name, p: "weight" in name), Tensor)
    assert_type(score_pool(model, loader, scheme=["entropy", "expected"]), dict[str, Tensor])
    assert_type(score_pool(model, loader, scheme=("entropy",), verify="all"), dict[str, Tensor])
    assert_type(naive_score_pool(model, loader, scheme="expected_squared"), Tensor)
    assert_type(naive_score_pool(model, loader, scheme=["expected"]), dict[str, Tensor])
    one = GradNormScorer(model, scheme="expected", params="last_layer")
    assert_type(one.score(loader), PoolScores)
    assert_type(one.score_batch(loader[0]), Tensor)
    assert_type(GradNormScorer(model).score(loader).select(1), Tensor)
    several = GradNormScorer(model, scheme=["expected", "entropy"])
    assert_type(several.score(loader), dict[str, PoolScores])
    assert_type(next(several.stream(loader)), dict[str, Tensor])
    assert_type(acquire(model, loader, 2, labelled=[0], params="last_layer"), Selection)
    assert_type(select(one.score(loader), 1), Tensor)
