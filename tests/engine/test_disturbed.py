"""Plain passes of many samples, and models in which some samples alone change what others are."""

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, score_pool
from tests.engine.test_together import exact
from tests.support import oracle
from tests.support.cases import Custom, linear

X = torch.randn(12, 6, 4)
PARTS = {"body": linear(4, 8), "head": linear(8, 3)}


def scaled(m, x):
    return m.head(m.body(x / x.abs().max().clamp(min=9)).mean(1))


def clipped(m, x):
    return m.head(m.body(x * (40 / x.norm()).clamp(max=1)).mean(1))


def turned(m, x):
    h = m.body(x).mean(1)
    return m.head(torch.where((x > 9).any(), -3 * h, h))


def turned_below(m, x):
    h = m.body(x).mean(1)
    return m.head(torch.where(x.amin() < -9, h.relu(), h))


def without_what_is_empty(m, x):
    h = m.body(x).mean(1)
    return m.head(h * (1 + (x == 0).all(2).any().to(h.dtype)))


FORMS = {
    scaled: 12.0, clipped: 60.0, turned: 12.0, turned_below: -12.0, without_what_is_empty: 0.0,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("forward", FORMS)
@pytest.mark.parametrize("verify", [True, "first"])
def test_samples_that_are_far_from_others_change_no_scores_but_their_own(forward, verify, passes):
    model, later = Custom(forward, **PARTS), X.clone()
    later[5, 2] = FORMS[forward]
    scorer = GradNormScorer(model, params="last_layer", verify=verify)
    for batch in (X, X + 0.1, later, later.flip(0)):
        score = scorer.score_batch(batch)
        torch.testing.assert_close(score.double(), exact(model, batch), rtol=1e-5, atol=0)
    assert not passes


@pytest.mark.parametrize(
    "dtype, beside", [(torch.uint8, False), (torch.int16, False), (torch.uint8, True)]
)
def test_whole_numbers_of_which_one_changes_all(dtype, beside, passes):
    """Pixels, one of which is brighter than any before; also beside places in a table."""

    def forward(m, given):
        x, rows = given if beside else (given, None)
        h = m.body(x.to(m.body.weight.dtype) / 100).mean(1)
        h = torch.where((x.amax() > 120), -3 * h, h)
        return m.head(h if rows is None else h + m.table(rows))

    model = Custom(forward, table=nn.Embedding(5, 8), **PARTS)
    x = torch.randint(0, 100, (12, 6, 4)).to(dtype)
    later = x.clone()
    later[3, 2, 1] = 121
    rows = torch.arange(12) % 5
    options = {"params": "last_layer", "forward": (lambda m, batch: m(batch)) if beside else None}
    scorer = GradNormScorer(model, **options)
    for batch in (x, later):
        score = scorer.score_batch((batch, rows) if beside else batch)
        alone = [
            (batch[i : i + 1], rows[i : i + 1]) if beside else batch[i : i + 1] for i in range(12)
        ]
        right = oracle.scores(model, alone, keep=lambda name: name.startswith("head."))
        torch.testing.assert_close(score.double(), right, rtol=1e-5, atol=0)
    assert not passes


def of_places(m, x):
    """Numbers that are places in a table, beyond which there is nothing."""
    rows = (x[:, 0, 0].abs() * 2).long()
    return m.head(m.table(rows) + m.body(x).mean(1))


def of_gaussians(m, x):
    """A factor that there is not for just any numbers."""
    near = torch.eye(4, dtype=x.dtype) + 0.01 * (x[:, :4] @ x[:, :4].mT)
    near = near - 1e-3 * x[:, :4].abs().amax((1, 2), keepdim=True) ** 3
    return m.head(m.body(torch.linalg.cholesky(near)).mean(1))


@pytest.mark.parametrize("forward", [of_places, of_gaussians])
def test_models_that_fail_on_samples_far_from_the_pools_are_run_at_once_still(forward, passes):
    model = Custom(forward, table=nn.Embedding(20, 8), **PARTS)
    found = score_pool(model, X.split(4), params="last_layer", progress=False)
    assert passes and all(passes)
    torch.testing.assert_close(found.double(), exact(model, X), rtol=1e-5, atol=0)
    with pytest.raises((IndexError, RuntimeError)):
        model(X * 1e3)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int64, torch.bool, torch.float64, torch.cfloat]
)
def test_inputs_of_any_dtype_are_left_as_they_are(dtype, passes):
    def forward(m, x):
        return m.head(
            m.body(
                torch.view_as_real(x)[..., 0] if x.is_complex() else x.to(m.body.weight.dtype)
            ).mean(1)
        )

    model, x = Custom(forward, **PARTS), (X * 3).abs().to(dtype)
    kept = x.clone()
    found = score_pool(model, x.split(4), params="last_layer", progress=False)
    assert passes and all(passes) and torch.equal(x, kept)
    assert found.isfinite().all()
