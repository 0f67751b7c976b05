"""Plain passes of later batches, with which a model does otherwise than with those verified."""

import pytest
import torch
from torch.nn import functional as F

from fastgradnorm import GradNormScorer, score_pool
from tests.support import oracle
from tests.support.cases import Custom, linear

PARTS = {"body": linear(4, 8), "head": linear(8, 3)}
SHORT, LONG = [torch.randn(5, 6, 4) for _ in range(3)], [torch.randn(5, 7, 4) for _ in range(3)]
MANY = [torch.randn(24, 6, 4) for _ in range(3)]
WHOLE = [torch.randint(0, 4, (5, 6, 4)) for _ in range(3)]


def centred(h):
    return h - h.mean(0)


def attending(h):
    """Over the samples, as attention does that is given them second."""
    h = h[None]
    return F.scaled_dot_product_attention(h, h, h)[0]


def body(m, x):
    return m.body(x.to(m.body.weight.dtype)).mean(1)


LATER = {
    "longer": (lambda m, x, mix: m.head(mix(body(m, x)) if x.shape[1] > 6 else body(m, x)), LONG),
    "shorter": (
        lambda m, x, mix: m.head(mix(body(m, x)) if x.shape[1] < 6 else body(m, x)),
        [x[:, :4] for x in SHORT],
    ),
    "more": (lambda m, x, mix: m.head(mix(body(m, x)) if len(x) > 16 else body(m, x)), MANY),
    "whole numbers": (
        lambda m, x, mix: m.head(body(m, x) if x.is_floating_point() else mix(body(m, x))),
        WHOLE,
    ),
}


def alone(model, batch, call=lambda model, batch: model(batch)):
    keep = {"keep": lambda name: name.startswith("head."), "call": call}
    return oracle.scores(model, batch.split(1), **keep)


@pytest.mark.slow
@pytest.mark.parametrize("way", LATER)
@pytest.mark.parametrize("mix", [centred, attending])
def test_samples_that_mix_in_some_batches_alone(way, mix):
    forward, later = LATER[way]
    model = Custom(lambda m, x: forward(m, x, mix), **PARTS)
    batches = [*SHORT, *later, SHORT[0]]
    right = [alone(model, batch) for batch in batches]
    scorer = GradNormScorer(model, params="last_layer", verify="first", progress=False)
    for batch, expected in zip(batches, right, strict=True):
        found = scorer.score_batch(batch)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    found = scorer.score(batches).values
    torch.testing.assert_close(found.double(), torch.cat(right), rtol=1e-5, atol=0)


@pytest.mark.parametrize("mark", [True, "mixed", 2])
def test_samples_that_mix_where_a_batch_says_so(mark):
    def forward(m, batch):
        h = body(m, batch["x"])
        return m.head(centred(h) if batch["mark"] == mark else h)

    model = Custom(forward, **PARTS)

    def call(model, batch):
        return model(batch)

    scorer = GradNormScorer(model, params="last_layer", forward=call)
    for told in (0, 0, 1, mark, 0, mark):
        found = scorer.score_batch({"x": SHORT[0], "mark": told})
        given = {"call": lambda model, x, told=told: model({"x": x, "mark": told})}
        torch.testing.assert_close(
            found.double(), alone(model, SHORT[0], **given), rtol=1e-5, atol=0
        )


def test_texts_of_many_lengths_are_run_at_once(passes):
    model = Custom(lambda m, x: m.head(m.body(x).amax(1)), **PARTS)
    batches = [torch.randn(5, 4 + i * 7 % 11, 4) for i in range(11)]
    found = score_pool(model, batches, params="last_layer", progress=False, temperature=2.0)
    assert len(passes) >= 11 and all(passes)
    right = [oracle.scores(model, x.split(1), keep=lambda n: n.startswith("head."), temperature=2.0)
             for x in batches]  # fmt: skip
    torch.testing.assert_close(found.double(), torch.cat(right), rtol=1e-5, atol=0)
