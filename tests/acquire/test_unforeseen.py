"""Calls of `acquire` that nobody planned: each works, or is told with what to do."""

import numpy as np
import pytest
import torch
from torch import nn

from fastgradnorm import acquire, score_pool

X = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
LABELLED = [3, 11, 12, 40]


def network():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).eval()


MODEL = network()
PAIR = (X[:2], torch.zeros(2))
MASK = [i < 5 for i in range(60)]


@pytest.mark.parametrize(
    "given, error, match",
    [
        ({"labelled": MASK}, TypeError, "Got True at place 0. Of a mask pass where it is true"),
        ({"labelled": [*np.array(MASK)]}, TypeError, "at place 0. Of a mask pass where it is true"),
        ({"labelled": torch.tensor(MASK)}, TypeError, "Of a mask pass `mask.nonzero"),
        ({"labelled": 5}, TypeError, r"`labelled` must be indices.*Pass `\[5\]`"),
        ({"labelled": np.int64(5)}, TypeError, "`labelled` must be indices.*Pass `"),
        ({"labelled": True}, TypeError, "`labelled` must be indices.*Got bool"),
        ({"labelled": 0.5}, TypeError, "`labelled` must be indices.*Got float"),
        ({"labelled": PAIR}, TypeError, r"`labelled`.*`\[\(inputs, labels\)\]`"),
        ({"pool": PAIR}, TypeError, r"`pool`.*`\[\(inputs, labels\)\]`"),
        ({"pool": [*PAIR]}, TypeError, r"`pool`.*`\[\(inputs, labels\)\]`"),
        ({"labelled": range(60)}, ValueError, "Of 60 samples 60 have a label already"),
        ({"strategy": "BADGE"}, ValueError, "`strategy`.*Close to it: badge"),
        ({"likelihood": "gaussian"}, ValueError, "Of a regression, 'coreset'"),
    ],
)
def test_what_to_do_is_told(given, error, match):
    asked = {"pool": [X], "k": 7, "progress": False, **given}
    with pytest.raises(error, match=match):
        acquire(MODEL, asked.pop("pool"), asked.pop("k"), **asked)


@pytest.mark.slow
def test_it_works_as_told():
    asked = {"progress": False}
    expected = acquire(MODEL, [X], 7, labelled=range(5), **asked).indices.tolist()
    known = [i for i, known in enumerate(MASK) if known]
    assert acquire(MODEL, [X], 7, labelled=known, **asked).indices.tolist() == expected
    found = acquire(MODEL, [(X, torch.zeros(60))], 7, labelled=torch.tensor(MASK).nonzero()[:, 0])
    assert found.indices.tolist() == expected
    assert len(acquire(MODEL, [X], 2, labelled=[PAIR], **asked)) == 2
    with torch.random.fork_rng():
        assert len(acquire(nn.Linear(5, 1), [X], 4, strategy="coreset", **asked)) == 4
    with pytest.raises(TypeError, match="Wrap inputs and their labels"):
        score_pool(MODEL, [X.numpy(), np.zeros(60)])
    # Two batches of as many samples are two batches.
    assert len(acquire(MODEL, [X[:4], X[4:8]], 8, **asked)) == 8


@pytest.mark.slow
def test_samples_without_a_score_are_counted():
    some = X.clone()
    some[[7, 9]] = torch.nan
    asked = {"labelled": LABELLED, "on_nonfinite": "keep", "progress": False}
    with pytest.raises(
        ValueError, match=r"at most 54.*4 have a label already and 2 have no finite"
    ):
        acquire(MODEL, [some], 55, **asked)
    with pytest.raises(ValueError, match="4 have a label already and 1 has no finite score"):
        acquire(MODEL, [some[:9]], 9, labelled=[0, 1, 2, 3], on_nonfinite="keep", progress=False)
    assert not {*acquire(MODEL, [some], 54, **asked)} & {7, 9, *LABELLED}


@pytest.mark.parametrize("strategy", ["auto", "top", "badge", "bait", "lcmd", "typiclust"])
def test_samples_that_are_all_alike(strategy):
    asked = {"strategy": strategy, "labelled": [2], "progress": False}
    made = acquire(MODEL, [X[:1].expand(9, -1)], 8, **asked)
    assert sorted(made) == [0, 1, 3, 4, 5, 6, 7, 8]
