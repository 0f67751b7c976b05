"""Sums, means and counts by groups, histograms and powers: at once, and as PyTorch has them.

Warnings are errors in these tests, so that an operation which is left to PyTorch fails.
"""

import pytest
import torch
from torch.func import vmap

from fastgradnorm._model import Passage, Pieces, Settings, StandIns, Watch
from fastgradnorm._model.holdings import Holdings
from tests.support.activations import assert_exact_and_at_once

SOURCES, TARGETS = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])
LENGTHS = torch.tensor([1, 0, 3])


def rows(function):
    """Of each sample's `[4, 6]` by itself."""
    return lambda x: torch.stack([function(row) for row in x.view(-1, 4, 6)]).flatten(1)


def neighbours(reduce, include_self, in_place=False):
    def way(h):
        name = "index_reduce_" if in_place else "index_reduce"
        first = torch.full_like(h, 0.3)
        given = 0, TARGETS, h[SOURCES], reduce
        return h + getattr(first, name)(*given, include_self=include_self)

    return rows(way)


def segments(reduce, **options):
    def way(h):
        found = torch.segment_reduce(h, reduce, **options)
        return torch.where(found.isfinite(), found, 0.5)

    return rows(way)


def folded(x):
    return torch.segment_reduce(x.view(-1, 6), "max", lengths=torch.full((len(x),), 4))


def by_columns(x):
    lengths = LENGTHS.expand(len(x), 3)
    return torch.segment_reduce(x.view(-1, 4, 6), "sum", lengths=lengths, axis=1).flatten(1)


def kinds(x):
    """Values that are equal for some, counted and numbered."""
    found = []
    for row in x:
        signs = row.detach().sign()
        values, places, counts = signs.unique(return_inverse=True, return_counts=True)
        runs, counted = signs.unique_consecutive(return_counts=True)
        weights = counts[places] * (1 + values.sum()) + counted.max() + len(runs)
        found.append(row * weights)
    return torch.stack(found)


def levels(row):
    return (4 * row.sigmoid()).long()


def lengthened(h):
    """As a regulator of durations does, to as many steps in all."""
    times = 1 + h[:, 0].detach().argsort()  # 1 to 4, in some order
    return h.repeat_interleave(times, dim=0) * torch.repeat_interleave(times)[:, None]


WAYS = {
    "repeat_interleave": rows(lengthened),
    "repeat_interleave, flat": rows(lambda h: h.repeat_interleave(1 + h.flatten().argsort() % 2)),
    **{
        f"index_reduce, {reduce}, {include_self}": neighbours(reduce, include_self)
        for reduce in ("mean", "amax", "amin", "prod")
        for include_self in (True, False)
    },
    "index_reduce_": neighbours("amax", True, in_place=True),
    **{
        f"segment_reduce, {reduce}": segments(reduce, lengths=LENGTHS)
        for reduce in ("sum", "mean", "max", "min", "prod")
    },
    "segment_reduce, offsets": segments("mean", offsets=torch.tensor([0, 1, 1, 4])),
    "segment_reduce, folded": folded,
    "segment_reduce, columns": by_columns,
    "bincount": rows(lambda h: h * levels(h[0]).bincount(minlength=6)),
    "bincount, weights": rows(lambda h: h * levels(h[0]).bincount(h[1].detach().abs(), 6)),
    "bincount, of some size": rows(lambda h: h * levels(h[0]).bincount().double().norm()),
    "histc": rows(lambda h: h * h.detach().histc(6, -0.5, 0.5)),
    "vander": lambda x: torch.linalg.vander(x[:, :4], N=4).flatten(1),
    "unique": kinds,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:index_reduce.. is in beta")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_it_is_exact_and_runs_at_once(way):
    assert_exact_and_at_once(way)


def at_once(function, *args):
    """`function` of each sample, under vmap, as models are run."""
    stand_ins = StandIns({}, Holdings({}, {}))

    def one(*args):
        with Watch(Pieces({}), stand_ins, Passage(Settings()), args):
            return function(*args)

    return vmap(one)(*args)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bins, low, high", [(7, -1, 1), (10, 0, 0.3), (3, -2.5, 0.1)])
def test_bins_are_those_of_pytorch(bins, low, high, dtype):
    torch.manual_seed(0)
    edges = torch.linspace(low, high, bins + 1, dtype=dtype)
    x = torch.stack([torch.cat([torch.randn(200).to(dtype), edges]) for _ in range(4)])
    found = at_once(lambda row: row.histc(bins, low, high), x)
    expected = torch.stack([row.histc(bins, low, high) for row in x])
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_counts_are_those_of_pytorch():
    x = torch.randint(0, 5, (4, 30), generator=torch.Generator().manual_seed(0))
    for weights in (None, torch.randn(4, 30), torch.randint(0, 9, (4, 30))):
        given = [x] if weights is None else [x, weights]
        found = at_once(lambda row, *w: torch.bincount(row, *w, minlength=7), *given)
        each = [torch.bincount(*row, minlength=7) for row in zip(*given, strict=True)]
        torch.testing.assert_close(found, torch.stack(each))
    with pytest.raises(RuntimeError, match="non-negative"):
        at_once(lambda row: torch.bincount(row, minlength=7), x - 1)
