"""Round after round, with every strategy and every way to say what is labelled, until all is."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from fastgradnorm import acquire
from fastgradnorm._selection.names import names
from tests.support.small_task import Blobs

N, K = 26, 5
# Of the last layer and of all, of both sketches: each way of choosing is there.
NAMES = [name for name in names() if not name.startswith(("expected_squared", "sketch/entropy"))]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3)).eval()


@pytest.fixture(scope="module")
def x():
    """Some come twice, and some are zeros."""
    x = Blobs(N).x
    x[20:23] = x[:3]
    x[23:25] = 0
    return x


def column(known):
    return pytest.importorskip("pandas").Series(known, dtype="int64")


WAYS = {
    "list": list,
    "set": set,
    "tensor": lambda known: torch.tensor(known, dtype=torch.int32),
    "array": lambda known: np.array(known, dtype=np.uint8),
    "labels by index": lambda known: dict.fromkeys(known, "cat"),
    "iterator": iter,
    "column": column,
    "numpy's integers": lambda known: [*map(np.int64, known)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_until_nothing_is_left(model, x, name):
    """With nothing labelled, little, and all but one; `k` below and far above what is labelled."""
    known, ways = [], [*WAYS.values()]
    data = TensorDataset(x, torch.full((N,), -1))
    for round_, k in enumerate((5, 20, 1)):
        labelled = ways[(2 * round_ + NAMES.index(name)) % len(ways)](known)
        given = {"strategy": name, "labelled": labelled, "seed": len(known), "progress": False}
        given["verify"] = round_ == 0
        chosen = acquire(model, data, k, batch_size=7, **given).indices.tolist()
        assert len(chosen) == len({*chosen}) == k
        assert not {*chosen} & {*known}
        known += chosen
    assert sorted(known) == list(range(N))
    with pytest.raises(ValueError, match="`k` must be at most 0, the number of candidates"):
        acquire(model, data, 1, strategy=name, labelled=known, progress=False)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_says_the_same(model, x, way):
    known = [3, 20, 0, 11]
    expected = acquire(model, [x], K, labelled=known, progress=False)
    made = acquire(model, [x], K, labelled=WAYS[way](known), progress=False)
    assert torch.equal(made.indices, expected.indices)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auto", "badge", "bait", "lcmd", "typiclust", "top", "random"])
@pytest.mark.parametrize("kind", ["loader", "dataset", "batches"])
def test_with_what_is_labelled_in_a_pool_of_its_own(model, x, name, kind):
    known = []
    while len(known) < N:
        rest = [i for i in range(N) if i not in known]
        labelled = Subset(TensorDataset(x), known)
        if kind == "loader":
            labelled = DataLoader(labelled, 4) if known else None
        elif kind == "batches":
            labelled = x[known].split(3) if known else ()
        pool, k = Subset(TensorDataset(x), rest), min(2 * K, len(rest))
        given = {"strategy": name, "labelled": labelled, "verify": not known}
        made = acquire(model, pool, k, **given, progress=False)
        known += [rest[i] for i in made]
    assert sorted(known) == list(range(N))
