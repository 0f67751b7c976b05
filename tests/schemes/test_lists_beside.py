"""Lists of a batch with one entry a sample, of names or numbers, which a loss would read whole.

For each sample it read all of them, or the first sample's: scores were wrong in silence.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgradnorm import gradient_dots, gradient_sketch, mean_gradient, naive_score_pool, score_pool
from tests.support.asserts import assert_close_relative
from tests.support.losses import RTOL, score, truth

X, Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
WEIGHTS, NAMES = [0.5, 1.0, 2.0, 0.1, 3.0, 1.5], list("abccba")

READ = {
    "sum": lambda batch: sum(batch["w"]),
    "first": lambda batch: batch["w"][0],
    "tensor": lambda batch: torch.tensor(batch["w"]).sum(),
    "array": lambda batch: float(np.asarray(batch["w"]).sum()),
    "zip": lambda batch: sum(a for a, _ in zip(batch["w"], batch["w"], strict=True)),
    "length": lambda batch: len(batch["names"]),
    "membership": lambda batch: 1 + ("a" in batch["names"]),
    "comparison": lambda batch: 1 + (batch["names"] == ["a"]),
    "joined": lambda batch: len("".join(batch["names"])),
    "method": lambda batch: 1 + batch["names"].count("a"),
    "nested": lambda batch: batch["more"]["boxes"][0][1],
}


def batch_of(part=slice(None)):
    return {
        "x": X[part],
        "y": Y[part],
        "w": WEIGHTS[part],
        "names": NAMES[part],
        "more": {"boxes": [[1.0, 2.0 + i] for i in range(6)][part]},
    }


def forward(model, batch):
    return model(batch["x"])


def times(read):
    return lambda output, batch: F.cross_entropy(output, batch["y"]) * read(batch)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))


@pytest.mark.parametrize("read", READ.values(), ids=READ.keys())
@pytest.mark.parametrize("verify", [True, False])
def test_what_reads_them_is_told(model, read, verify):
    options = {"loss": times(read), "forward": forward, "verify": verify}
    with pytest.raises(ValueError, match=r"`loss` must read what differs.*It read `batch\['\w+'\]"):
        score(model, [batch_of()], **options)


def test_other_functions_tell_so_too(model):
    given = {"loss": times(READ["first"]), "forward": forward}
    ones = {"0.bias": torch.ones(5)}
    for call in (
        lambda: gradient_sketch(model, [batch_of()], 8, **given),
        lambda: gradient_dots(model, [batch_of()], ones, **given),
        lambda: mean_gradient(model, [batch_of()], **given),
        lambda: naive_score_pool(model, [batch_of()], **given),
    ):
        with pytest.raises(ValueError, match="`loss` must read what differs"):
            call()


@pytest.mark.slow
def test_batches_of_one_have_their_own(model):
    pool = [batch_of(slice(i, i + 1)) for i in range(6)]
    found = score(model, pool, loss=times(READ["first"]), forward=forward)
    pairs = [(X, Y, torch.tensor(WEIGHTS))]
    expected = truth(model, pairs, lambda m, s: F.cross_entropy(m(s[0]), s[1]) * s[2][0])
    assert_close_relative(found, expected, RTOL)


@dataclass
class Labelled:
    x: Tensor
    y: Tensor
    names: list[str]


@pytest.mark.parametrize(
    "batch, label",
    [
        pytest.param(batch_of(), "y", id="mapping"),
        pytest.param((X, Y, tuple(WEIGHTS), NAMES), 1, id="tuple"),
        pytest.param(Labelled(X, Y, NAMES), "y", id="dataclass"),
    ],
)
def test_what_does_not_read_them_is_scored(model, batch, label):
    def of(batch, key):
        return getattr(batch, key) if isinstance(batch, Labelled) else batch[key]

    first = 0 if label == 1 else "x"
    found = score_pool(
        model,
        [batch],
        loss=lambda output, item: F.cross_entropy(output, of(item, label)),
        forward=lambda m, item: m(of(item, first)),
        progress=False,
    )
    expected = truth(model, [(X, Y)], lambda m, s: F.cross_entropy(m(s[0]), s[1]))
    assert_close_relative(found.double(), expected, RTOL)


def test_lists_of_another_length_are_settings(model):
    batch = {**batch_of(), "w": [2.0, 3.0]}
    found = score(model, [batch], loss=times(READ["first"]), forward=forward)
    expected = truth(model, [(X, Y)], lambda m, s: F.cross_entropy(m(s[0]), s[1]) * 2.0)
    assert_close_relative(found, expected, RTOL)


def test_a_setting_as_long_as_the_last_batch(model):
    def batch(part):
        return {**batch_of(part), "w": [2.0, 3.0]}

    pool = [batch(slice(4)), batch(slice(4, 6))]
    found = score(model, pool, loss=times(READ["first"]), forward=forward)
    expected = truth(model, [(X, Y)], lambda m, s: F.cross_entropy(m(s[0]), s[1]) * 2.0)
    assert_close_relative(found, expected, RTOL)
