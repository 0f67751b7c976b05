"""Pools and models at the edge of what choosing means, by every strategy."""

import warnings

import pytest
import torch
from torch import nn

from fastgradnorm import NonFiniteScoreError, acquire
from fastgradnorm._selection.table import TABLE
from tests.support.small_task import Blobs

X = Blobs(20).x


def network(classes=3):
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, classes)).eval()


POOLS = {
    "one sample": X[:1],
    "two": X[:2],
    "all alike": X[:1].expand(12, -1, -1, -1),
    "zeros": torch.zeros(9, 1, 6, 6),
    "each twice": X[:8].repeat_interleave(2, 0),
    "one apart": torch.cat([X[:1].expand(11, -1, -1, -1), X[5:6]]),
}


def chosen(model, x, k, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that outputs are all alike is told, and meant here
        return acquire(model, [x], k, progress=False, **options).indices.tolist()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", TABLE)
def test_as_many_as_there_are(name, pool):
    x = POOLS[pool]
    for labelled in ([], [0]):
        k = len(x) - len(labelled)
        if k:
            given = {"strategy": name, "labelled": labelled, "verify": not labelled}
            found = chosen(network(), x, k, **given)
            assert sorted(found) == list(range(len(labelled), len(x)))
    if len(x) > 1:  # else it is what was chosen first
        assert chosen(network(), x, 1, strategy=name, verify=False)[0] in range(len(x))


def saturated():
    """Probabilities that are one and zero to the last bit."""
    model = network()
    with torch.no_grad():
        model[3].weight.mul_(1e5)
    return model


def constant():
    """The same logits for all."""
    model = network()
    nn.init.zeros_(model[3].weight)
    return model


def one_class():
    """All are of one class, and sure."""
    model = network()
    with torch.no_grad():
        model[3].bias[1] += 50
    return model


MODELS = {"saturated": saturated, "constant": constant, "one class": one_class,
          "one logit": lambda: network(1), "two classes": lambda: network(2)}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", [*TABLE, "expected/all/herding", "sketch/predicted/all/lcmd"])
def test_models_that_tell_little(name, kind):
    model = MODELS[kind]()
    found = chosen(model, X, 7, strategy=name, labelled=[3, 4])
    assert len({*found}) == 7
    assert not {*found} & {3, 4}
    assert found == chosen(model, X, 7, strategy=name, labelled=[3, 4], verify=False)


@pytest.mark.parametrize("name", TABLE)
def test_samples_without_a_number(name):
    """They are an error that says where, unless they are to be left out; then none is chosen."""
    x = X.clone()
    x[[2, 7]] = torch.nan
    x[11, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteScoreError, match="2, 7, 11"):
        acquire(network(), [x], 3, strategy=name, progress=False)
    found = chosen(network(), x, 17, strategy=name, on_nonfinite="keep")
    assert sorted(found) == [i for i in range(20) if i not in (2, 7, 11)]
    with pytest.raises(ValueError, match="`k` must be at most 17"):
        chosen(network(), x, 18, strategy=name, on_nonfinite="keep", verify=False)


@pytest.mark.parametrize("name", TABLE)
def test_groups_that_do_not_hold_so_many(name):
    groups = ["a"] * 14 + ["b"] * 5 + [None]
    given = {"strategy": name, "groups": groups, "max_per_group": 2}
    found = chosen(network(), X, 5, **given)
    assert sum(i < 14 for i in found) == 2 == sum(14 <= i < 19 for i in found)
    with pytest.raises(ValueError, match=r"`k` must be at most 5.*`max_per_group`"):
        chosen(network(), X, 6, **given)
    # What is labelled is no part of a group's share, but its samples are none to choose.
    found = chosen(network(), X, 3, labelled=range(14), verify=False, **given)
    assert all(i >= 14 for i in found)
