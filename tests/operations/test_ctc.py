"""Losses of sequences whose labels are not aligned to them, as of speech and handwriting."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import GradNormScorer, score_pool
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear
from tests.support.losses import RTOL, truth

_G = torch.Generator().manual_seed(0)


def batch_of(samples):
    return {
        "x": torch.randn(samples, 9, 4, generator=_G),
        "labels": torch.randint(1, 5, (samples, 4), generator=_G),
        "lengths": torch.randint(7, 10, (samples,), generator=_G),
        "counts": torch.randint(1, 5, (samples,), generator=_G),
    }


# A pool, whose samples have labels of several lengths.
POOL = [batch_of(n) for n in (4, 4, 3)]


def rates(output):
    return output.log_softmax(-1).transpose(0, 1)


def parts(batch):
    return batch["labels"], batch["lengths"], batch["counts"]


def written_out(output, batch):
    return F.ctc_loss(rates(output), *parts(batch))


LOSSES = {
    "mean": written_out,
    "sum": lambda o, b: F.ctc_loss(rates(o), *parts(b), reduction="sum"),
    "each": lambda o, b: F.ctc_loss(rates(o), *parts(b), reduction="none").square().mean(),
    "module": lambda o, b: nn.CTCLoss(zero_infinity=True)(rates(o), *parts(b)),
    "another blank": lambda o, b: F.ctc_loss(
        rates(o), b["labels"] - 1, b["lengths"], b["counts"], blank=4
    ),
    "whole lengths": lambda o, b: F.ctc_loss(
        rates(o), b["labels"], torch.full((len(o),), 9), b["counts"]
    ),
    "32 bits": lambda o, b: F.ctc_loss(rates(o), *(part.int() for part in parts(b))),
    "too short": lambda o, b: F.ctc_loss(
        rates(o), b["labels"], b["counts"] - (b["counts"] > 2).long(), b["counts"],
        zero_infinity=True,
    ) + 0.1 * o.square().mean(),
    "PyTorch's own": lambda o, b: torch.ctc_loss(rates(o), *parts(b), reduction=1),
    "PyTorch's own sum": lambda o, b: torch.ctc_loss(rates(o), *parts(b), reduction=2),
    "of numbers": lambda o, b: F.ctc_loss(rates(o), b["labels"], (9,) * len(o), (3,) * len(o)),
    "beside another": lambda o, b: written_out(o, b) + F.cross_entropy(o[:, 0], b["labels"][:, 0]),
}  # fmt: skip


def forward(model, batch):
    return model(batch["x"])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Custom(
        lambda m, x: m.head(torch.tanh(m.rows(x)[0])),
        rows=nn.GRU(4, 6, batch_first=True), head=linear(6, 5),
    )  # fmt: skip


def exact(model, loss):
    return truth(model, POOL, lambda model, sample: loss(forward(model, sample), sample))


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("verify", [True, False])
def test_samples_at_once(name, verify, model):
    loss = LOSSES[name]
    found = score_pool(model, POOL, loss=loss, forward=forward, verify=verify, progress=False)
    assert_close_relative(found, exact(model, loss), RTOL)


@pytest.mark.slow
def test_the_last_layer(model):
    scorer = GradNormScorer(
        model, loss=written_out, forward=forward, params="last_layer", progress=False
    )
    model.rows.requires_grad_(False)
    assert_close_relative(scorer.score(POOL).values, exact(model, written_out), RTOL)
