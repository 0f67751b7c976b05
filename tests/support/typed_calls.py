"""Calls as users write them; type checkers know what each returns. Run by a test, too."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import assert_type

import torch
from torch import Tensor, nn

from fastgradnorm import (
    GradNormScorer,
    PoolScores,
    Selection,
    SketchStore,
    acquire,
    explain_gradients,
    gradient_dots,
    gradient_sketch,
    mean_gradient,
    naive_score_pool,
    score_pool,
    select,
    sketch_dots,
    sketch_errors,
    store_sketches,
)
from fastgradnorm.active import Asked, Campaign


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


def calls_on_gradients() -> None:
    """Sketches, products with directions, and a campaign."""
    model, labelled = nn.Linear(3, 2), [(torch.eye(3), torch.tensor([0, 1, 0]))]
    direction = mean_gradient(model, labelled, loss="cross_entropy")
    assert_type(direction, dict[str, Tensor])
    assert_type(gradient_dots(model, labelled, direction, loss="cross_entropy"), Tensor)
    assert_type(gradient_dots(model, labelled, [direction] * 2, loss="cross_entropy"), Tensor)
    rows = gradient_sketch(model, labelled, 8, loss="cross_entropy")
    assert_type(rows, Tensor)
    grouped = gradient_sketch(model, labelled, 8, loss="cross_entropy", group_by="parameter")
    assert_type(grouped, dict[str, Tensor])
    assert_type(sketch_dots(rows, rows, whiten=0.1), Tensor)
    assert_type(sketch_errors(rows, rows), Tensor)
    explain_gradients(model, labelled[0], dim=8, loss="cross_entropy")
    with TemporaryDirectory() as folder:
        place = Path(folder)
        assert_type(
            store_sketches(model, labelled, place / "rows", 8, scheme="predicted"), SketchStore
        )
        campaign = Campaign(
            place / "campaign", [torch.eye(3)[i] for i in range(3)], ["a", "b", "c"]
        )
        assert_type(campaign.ask(1, model), Asked)
