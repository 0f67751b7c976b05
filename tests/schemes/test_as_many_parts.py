"""Batches whose lists have as many parts as there are samples, as the last one of a pool may."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import GradNormScorer, score_pool
from tests.support.asserts import assert_close_relative
from tests.support.losses import RTOL

X, Y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 4
SPLIT = (5, 5, 2)
TABLE = torch.arange(7.0)


def x_of(batch):
    return batch[0]


# How a batch is made, where its inputs are, and where its labels are.
FORMS = {
    "inputs and a mapping": (lambda x, y: ((x, {"more": x}), y), lambda b: b[0][0], lambda b: b[1]),
    "two mappings": (
        lambda x, y: (({"a": x}, {"b": x}), y), lambda b: b[0][0]["a"], lambda b: b[1]
    ),
    "inputs and a table": (lambda x, y: ((x, TABLE), y), lambda b: b[0][0], lambda b: b[1]),
    "labels of two tasks": (lambda x, y: (x, [y, x[:, 0]]), x_of, lambda b: b[1][0]),
    "labels and a table": (lambda x, y: (x, [y, TABLE]), x_of, lambda b: b[1][0]),
    "labels in two mappings": (
        lambda x, y: (x, [{"y": y}, {"y": x[:, 0]}]), x_of, lambda b: b[1][0]["y"]
    ),
    "by name": (lambda x, y: {"x": x, "y": (y, {"z": y})}, lambda b: b["x"], lambda b: b["y"][0]),
}  # fmt: skip
ALONE = {"inputs and a mapping", "two mappings", "inputs and a table", "labels of two tasks"}
ALONE |= {"by name"}


@pytest.fixture
def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))


def exact(model):
    double = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    double.load_state_dict(model.state_dict())
    rows = []
    for x, y in zip(X.double().split(1), Y.split(1), strict=True):
        grads = torch.autograd.grad(F.cross_entropy(double(x), y), list(double.parameters()))
        rows.append(sum(g.square().sum() for g in grads) ** 0.5)
    return torch.stack(rows)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("verify", [True, False])
def test_parts_are_no_samples(name, verify, model):
    make, inputs, labels = FORMS[name]
    batches = [make(x, y) for x, y in zip(X.split(SPLIT), Y.split(SPLIT), strict=True)]
    options = {
        "loss": lambda output, batch: F.cross_entropy(output, labels(batch)),
        "forward": lambda model, batch: model(inputs(batch)),
        "verify": verify,
    }
    assert_close_relative(score_pool(model, batches, progress=False, **options), exact(model), RTOL)
    scorer = GradNormScorer(model, progress=False, **options)
    if name in ALONE:
        assert_close_relative(scorer.score_batch(batches[-1]), exact(model)[-2:], RTOL)
        return
    # Of the batch alone it is not to be known.
    with pytest.raises(ValueError, match=r"for 2 samples\. Pad and stack them"):
        scorer.score_batch(batches[-1])


@pytest.mark.parametrize("sizes", [(2, 2), (3, 2)])
def test_samples_in_a_list_are_refused(sizes, model):
    """Boxes of each sample, as many as there are or not; in every batch so many as samples."""
    batches = [(X[:n], [{"boxes": torch.ones(2 + i, 4)} for i in range(n)]) for n in sizes]
    with pytest.raises(ValueError, match="Got a list of dict for"):
        score_pool(
            model,
            batches,
            loss=lambda output, batch: output.sum() * batch[1][0]["boxes"].sum(),
            forward=lambda model, batch: model(batch[0]),
        )
