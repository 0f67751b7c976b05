"""Rows picked and added up by an index that samples share, as the edges of one graph, or do not."""

import pytest
import torch
from torch import nn

from fastgradnorm import score_pool
from fastgradnorm._operations import shared_indices
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

FROM = torch.tensor([0, 1, 1, 3, 4, 4, 2])
TO = torch.tensor([1, 0, 2, 2, 2, 0, 3])
X = torch.randn(5, 5, 4, generator=torch.Generator().manual_seed(0))


def graph(m, x):
    h = torch.tanh(m.layer(x))
    return torch.zeros_like(h).index_add(1, m.to_, h.index_select(1, m.from_))


def functions(m, x):
    h = torch.tanh(m.layer(x))
    return torch.index_add(h, 1, TO, torch.index_select(h, 1, FROM), alpha=-0.5)


def in_place(m, x):
    h = torch.tanh(m.layer(x))
    return (2 * h).index_add_(-2, TO, h.index_select(-2, FROM).sin(), alpha=3)


def into_shared_zeros(m, x):
    h = torch.tanh(m.layer(x))
    zeros = torch.zeros(len(x), 5, 4, dtype=x.dtype)
    return zeros.index_add(1, TO, h.index_select(1, FROM))


def last_dimension(m, x):
    h = torch.tanh(m.layer(x))
    return h.index_add(-1, torch.tensor([3, 3]), h.index_select(2, torch.tensor([0, 2])))


def other_size(m, x):
    h = torch.tanh(m.layer(x))
    return h.new_zeros(len(x), 9, 4).index_add(1, TO + 2, h.index_select(1, FROM))


def one_index(m, x):
    h = torch.tanh(m.layer(x))
    return h.index_add(1, torch.tensor(3), h.index_select(1, torch.tensor(2)))


def of_each_sample(m, x):
    h = torch.tanh(m.layer(x))
    order = x[:, :, 0].argsort(1)
    rows = [one.index_select(0, i) for one, i in zip(h, order, strict=True)]
    return torch.stack([r.index_add(0, i[:2], r[1:3]) for r, i in zip(rows, order, strict=True)])


def of_inputs(m, x):
    return torch.tanh(m.layer(x.index_select(1, FROM).index_add(1, TO, x.index_select(1, TO))))


def of_numbers(m, x):
    counts = torch.zeros_like(x[..., 0], dtype=torch.long).index_add(
        1, TO, torch.ones(len(x), 7).long()
    )
    return torch.tanh(m.layer(x)) * counts[..., None]


MOVED = [graph, functions, in_place, into_shared_zeros, last_dimension, other_size, one_index]


def make(forward):
    torch.manual_seed(0)
    model = Custom(lambda m, x: m.head(forward(m, x).square().mean(1)), head=linear(4, 3)).eval()
    model.layer = nn.Linear(4, 4)
    model.register_buffer("from_", FROM)
    model.register_buffer("to_", TO)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["expected", "entropy"])
@pytest.mark.parametrize(
    "forward", [*MOVED, of_each_sample, of_inputs, of_numbers], ids=lambda f: f.__name__
)
def test_as_the_loop(forward, scheme):
    model = make(forward)
    exact = oracle.scores(model, oracle.ones(X), scheme)
    for pool in ([X], [X] * 30):
        found = score_pool(model, pool, scheme=scheme, progress=False)[: len(X)]
        assert_close_relative(found, exact, 1e-5, forward.__name__)


@pytest.mark.parametrize("forward", MOVED, ids=lambda f: f.__name__)
def test_rows_are_moved(forward, monkeypatch):
    """Not number by number, by an index for each."""
    moved = set()
    for name in ("_add", "_pick"):
        own = getattr(shared_indices, name)
        noted = lambda *given, name=name, own=own: moved.add(name) or own(*given)  # noqa: E731
        monkeypatch.setattr(shared_indices, name, noted)
    score_pool(make(forward), [X], progress=False, verify=False)
    assert moved == {"_add", "_pick"}


@pytest.mark.parametrize("index", [torch.tensor([0, 7]), torch.tensor([1, 2, 3])])
def test_an_index_that_does_not_fit(index):
    model = make(lambda m, x: m.layer(x).index_add(1, index, m.layer(x)[:, :2]))
    with pytest.raises((ValueError, IndexError, RuntimeError), match=r"index|bounds|range|source"):
        score_pool(model, [X], progress=False)
