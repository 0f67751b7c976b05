"""Datasets that give a batch's samples in another order than they were asked for are told."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from fastgradnorm import GradNormScorer, acquire, score_pool

X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))


class OneByOne(Dataset):
    """Its samples by themselves are right; how a batch of them comes, `take` says."""

    def __init__(self, take, sample=lambda i: X[i]):
        self.take, self.sample = take, sample

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return self.sample(i)

    def __getitems__(self, keys):
        return [self.sample(i) for i in self.take(keys)]


def named(i):
    return {"x": X[i], "y": i % 3}


def pair(i):
    return X[i], i % 3


def array(i):
    return X[i].numpy()


OWN = {
    "ascending, as a file is read": sorted,
    "backwards": lambda keys: keys[::-1],
    "each once, as a set has them": lambda keys: list({*keys}),
    "grouped": lambda keys: sorted(keys, key=lambda i: (i % 4, i)),
    "one late": lambda keys: [keys[1], keys[0], *keys[2:]],
}


def shuffled(dataset, **options):
    draws = torch.Generator().manual_seed(3)
    return DataLoader(dataset, 8, shuffle=True, generator=draws, **options)


def model():
    torch.manual_seed(0)
    return nn.Linear(5, 3).eval()


def forward(net, batch):
    if isinstance(batch, dict):
        batch = batch["x"]
    return net(batch[0] if isinstance(batch, (list, tuple)) else batch)


OPTIONS = {"forward": forward, "verify": False, "progress": False}


@pytest.mark.parametrize("sample", [None, named, pair, array])
@pytest.mark.parametrize("take", OWN.values(), ids=OWN)
def test_is_told(take, sample):
    dataset = OneByOne(take, sample or (lambda i: X[i]))
    with pytest.warns(UserWarning, match="`__getitems__` gives the samples of a batch in an order"):
        found = GradNormScorer(model(), **OPTIONS).score(shuffled(dataset))
    assert found.indices is None


@pytest.mark.parametrize("depth", [1, 2])
def test_is_told_through_subsets(depth):
    dataset = OneByOne(sorted)
    for _ in range(depth):
        dataset = Subset(dataset, [*range(7, len(dataset)), *range(7)])
    with pytest.warns(UserWarning, match="`__getitems__` gives"):
        score_pool(model(), shuffled(dataset), **OPTIONS)


def test_the_samples_of_a_part_are_asked_for_by_their_own_keys():
    """In sequence its numbers ascend, and what they stand for does not."""
    part = Subset(OneByOne(sorted), range(len(X) - 1, -1, -1))
    with pytest.warns(UserWarning, match="`__getitems__` gives"):
        score_pool(model(), DataLoader(part, 8), **OPTIONS)


def test_who_chooses_is_told():
    with pytest.warns(UserWarning, match="`pool` gave scores that cannot be traced"):
        acquire(model(), shuffled(OneByOne(sorted)), 3, verify=False, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "take", [lambda keys: keys, tuple, iter], ids=["as asked", "as a tuple", "one after another"]
)
@pytest.mark.parametrize("sample", [None, named, pair, array])
def test_those_that_keep_the_order_are_not_told(take, sample):
    dataset = OneByOne(take, sample or (lambda i: X[i]))
    found = GradNormScorer(model(), **OPTIONS).score(shuffled(dataset))
    alone = score_pool(model(), [X], verify=False, progress=False)
    torch.testing.assert_close(found.values, alone[found.indices])


@pytest.mark.slow
def test_in_the_order_in_which_it_reads_nothing_is_told():
    found = score_pool(model(), DataLoader(OneByOne(sorted), 8), **OPTIONS)
    torch.testing.assert_close(found, score_pool(model(), [X], verify=False, progress=False))


def test_samples_that_change_by_chance_are_no_other_samples():
    dataset = OneByOne(lambda keys: keys, lambda i: X[i] + torch.rand(5))
    found = GradNormScorer(model(), **OPTIONS).score(shuffled(dataset))
    assert found.indices.sort().values.tolist() == list(range(len(X)))
