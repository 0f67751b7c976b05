"""Masks and places that differ between samples, but pick as many from each: fast and exact."""

import warnings

import pytest
import torch
from torch import nn

from fastgradnorm import SlowPathWarning, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

STOP = 9

# In a batch, what is picked from the first sample, or branched on, is the same for all: told.
pytestmark = pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")


def texts(n, stops=1, length=6):
    """Words `[n, length]`, of which as many as `stops` are the word that ends a text."""
    torch.manual_seed(0)
    ids = torch.randint(0, STOP, (n, length))
    for row in ids:
        row[torch.randperm(length)[:stops]] = STOP
    return ids


def last(m, hidden, ids):
    return hidden[ids.eq(STOP), :].view(len(ids), -1, hidden.shape[-1])[:, -1]


def checked(m, hidden, ids):
    """As sequence classifiers of encoder-decoder models do it."""
    mask = ids.eq(STOP)
    if len(torch.unique_consecutive(mask.sum(1))) > 1:
        raise ValueError("All examples must have the same number of <eos> tokens.")
    return hidden[mask].view(len(ids), -1, hidden.shape[-1])[:, -1]


def written(m, hidden, ids):
    out = torch.zeros_like(hidden) + hidden.mean((1, 2), True)
    mask = ids == STOP
    out[mask] = m.mixed(hidden[mask])
    return out.mean(1)


def scattered(m, hidden, ids):
    mask = ids == STOP
    return hidden.masked_scatter(mask[..., None], m.mixed(hidden[mask])).mean(1)


def scattered_both_ways(m, hidden, ids):
    """As of words and sounds in one text, each by a layer of its own; in place, too."""
    mask = ids == STOP
    out = hidden.clone()
    out.masked_scatter_(mask[..., None], m.mixed(hidden[mask]).exp())
    return out.masked_scatter(~mask[..., None], out[~mask].square()).sum(1)


def alone(way):
    """Written for one sample at a time."""
    return lambda m, h, ids: torch.cat(
        [way(m, *row) for row in zip(h.split(1), ids.split(1), strict=True)]
    )


WAYS = {
    "mask and slice": last,
    "checked": checked,
    "written": written,
    "scattered": scattered,
    "scattered both ways": scattered_both_ways,
    "mask of one sample": alone(lambda m, h, ids: h[0, ids[0] == STOP].mean(0, keepdim=True)),
    "after a slice": alone(lambda m, h, ids: h[:, ids[0] == STOP].mean(1)),
    "nonzero": alone(lambda m, h, ids: h[0, (ids[0] == STOP).nonzero()[:, 0]].sum(0, keepdim=True)),
    "nonzero as tuple": alone(lambda m, h, ids: h[torch.nonzero(ids == STOP, as_tuple=True)][:1]),
    "where": alone(lambda m, h, ids: h[torch.where(ids == STOP)].amax(0, keepdim=True)),
    "argwhere": alone(
        lambda m, h, ids: h[0].index_select(0, torch.argwhere(ids == STOP)[:, 1])[:1]
    ),
    "masked_select": alone(
        lambda m, h, ids: h.masked_select((ids == STOP)[..., None]).view(1, -1, h.shape[-1]).mean(1)
    ),
    "several dimensions": alone(lambda m, h, ids: h.movedim(-1, 0)[:, ids == STOP].mean(1)[None]),
    "words too": alone(lambda m, h, ids: m.words(ids[ids != STOP])[None].mean(1)),
}


def model(way):
    torch.manual_seed(1)
    return Custom(
        lambda m, ids: m.head(torch.tanh(WAYS[way](m, m.body(m.words(ids)), ids))),
        words=nn.Embedding(10, 4),
        body=linear(4, 4),
        mixed=linear(4, 4),
        head=linear(4, 3),
    ).double()


@pytest.mark.parametrize("stops", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_as_many_from_each_sample(way, stops):
    assert_fast_and_exact(model(way), texts(5, stops))


@pytest.mark.parametrize("way", ["written", "scattered", "scattered both ways"])
def test_a_layer_that_is_given_nothing_has_gradients_of_zero(way):
    assert_fast_and_exact(model(way), texts(5, 0))


@pytest.mark.slow
def test_nothing_of_some_samples():
    assert_fast_and_exact(model("scattered"), torch.cat([texts(3, 0), texts(3, 2)]))


def assert_fast_and_exact(net, ids):
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        scores = score_pool(net, [ids], scheme=oracle.SCHEMES, progress=False)
    table = oracle.norms(net, oracle.ones(ids))
    for scheme in oracle.SCHEMES:
        assert_close_relative(scores[scheme], table.scores(scheme), 1e-9, scheme)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["mask of one sample", "written", "where", "words too"])
def test_other_numbers_are_groups(way):
    net = model(way)
    ids = torch.cat([texts(3, 1), texts(2, 3), texts(3, 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        scores = score_pool(net, [ids], progress=False)
    assert_close_relative(scores, oracle.scores(net, oracle.ones(ids)), 1e-9)
