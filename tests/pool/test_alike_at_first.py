"""A checkpoint tells pools apart that have the same size and the same first samples."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from fastgradnorm import acquire
from tests.support.cases import perturb
from tests.support.stopping import assert_same, scorer

N, FIRST = 120, 70
REFUSED = r"same model, options and pool.*differs in pool's samples"


class Rows(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return perturb(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))


def _pools():
    x = torch.randn(N, 4)
    other = x.clone()
    other[FIRST:] += 1
    head, one, two = [*range(FIRST)], [*range(FIRST, 80)], [*range(90, 100)]
    nested = Subset(Rows(x), [*range(N)][::-1])
    return {
        "a subset": [Subset(Rows(x), head + rest) for rest in (one, two)],
        "as tensors": [Subset(Rows(x), torch.tensor(head + rest)) for rest in (one, two)],
        "in another order": [Subset(Rows(x), head + rest) for rest in (one, one[::-1])],
        "of a subset": [Subset(nested, head + rest) for rest in (one, two)],
        "below a subset": [
            Subset(Subset(Rows(x), head + rest), [*range(80)]) for rest in (one, two)
        ],
        "tensors": [TensorDataset(each) for each in (x, other)],
        "part of tensors": [Subset(TensorDataset(each), head + one) for each in (x, other)],
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", _pools())
def test_another_pool_is_refused(model, name, tmp_path):
    first, second = _pools_of(name)
    path = tmp_path / "scores"
    scored = scorer(model, path).score(DataLoader(first, 20))
    again = scorer(model, path).score(DataLoader(first, 30))
    assert_same(again, scored)
    with pytest.raises(ValueError, match=REFUSED):
        scorer(model, path).score(DataLoader(second, 20))


def _pools_of(name):
    torch.manual_seed(1)
    return _pools()[name]


@pytest.mark.slow
def test_what_is_labelled(model, tmp_path):
    first, second = _pools_of("tensors")
    options = {"checkpoint": tmp_path / "scores", "progress": False}
    pool = Rows(torch.randn(20, 4))
    chosen = acquire(model, pool, 3, labelled=first, **options)
    assert acquire(model, pool, 3, labelled=first, **options).indices.equal(chosen.indices)
    with pytest.raises(ValueError, match=REFUSED):
        acquire(model, pool, 3, labelled=second, **options)


@pytest.mark.slow
def test_the_same_pool_said_otherwise(model, tmp_path):
    torch.manual_seed(1)
    data, path = Rows(torch.randn(N, 4)), tmp_path / "scores"
    where = [*range(0, N, 2)]
    scored = scorer(model, path).score(DataLoader(Subset(data, where), 20))
    for same in (torch.tensor(where), range(0, N, 2)):
        again = scorer(model, path).score(DataLoader(Subset(data, same), 20))
        assert_same(again, scored)


@pytest.mark.slow
def test_labels_of_tensors_are_not_looked_at(model, tmp_path):
    torch.manual_seed(1)
    x, options = torch.randn(N, 4), {"checkpoint": tmp_path / "scores", "progress": False}
    chosen = acquire(model, TensorDataset(x, torch.zeros(N)), 3, **options)
    again = acquire(model, TensorDataset(x, torch.ones(N)), 3, **options)
    assert again.indices.equal(chosen.indices)
