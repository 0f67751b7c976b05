"""Buffers into which a model writes values of its samples: each sample has its own meanwhile."""

import warnings

import pytest
import torch

from fastgradnorm import SlowPathWarning, score_pool
from tests.support import oracle, sketched
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear
from tests.support.unchanged import assert_unchanged, snapshot


def moving_average(m, x, h):
    m.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
    return h


def read_afterwards(m, x, h):
    m.mean.lerp_(h.detach().mean(0), 0.3)
    return h + m.mean


def keys(m, x, h):
    """As of a cache that an autoregressive model fills."""
    m.cache[: len(x)] = h.detach()
    return h * m.cache[: len(x)].tanh()


def by_a_view(m, x, h):
    row = m.cache[: len(x)]
    row.copy_(h)
    return h + m.cache[: len(x)].tanh()


def seen_by_a_view(m, x, h):
    row = m.cache[: len(x)]
    m.cache[: len(x), 1:3] = h[:, :2]
    return h + row


def by_steps(m, x, h):
    m.cache.zero_()
    for t in range(h.shape[1]):
        m.cache[: len(x), t] += h[:, t].detach() * (t + 1)
    return h + m.cache[: len(x)]


def counted(m, x, h):
    m.count += (h.detach() > 0).sum().long()
    return h if m.count > 2 else 2 * h


def flagged(m, x, h):
    m.flags |= (h.detach() > 0).any(0)
    return h * torch.where(m.flags, 1.0, 0.5)


def in_a_list(m, x, h):
    m.kept[0].add_(h.detach().sum(0))
    return h + m.kept[0]


ALONE = [
    seen_by_a_view,
    read_afterwards,
    counted,
    flagged,
    in_a_list,
]  # in a batch they have others' values
WAYS = [moving_average, keys, by_a_view, by_steps, *ALONE]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_it_is_exact_and_fast(way):
    torch.manual_seed(0)
    parts = {"body": linear(4, 5), "head": linear(5, 3)}
    model = Custom(lambda m, x: m.head(way(m, x, m.body(x).tanh())), **parts)
    buffers = {"mean": torch.randn(5), "cache": torch.randn(8, 5), "count": torch.tensor(0)}
    for name, value in {**buffers, "flags": torch.zeros(5, dtype=torch.bool)}.items():
        model.register_buffer(name, value)
    model.kept = [torch.zeros(5)]
    x, labels = torch.randn(5, 4), torch.arange(5) % 3
    # Each of a copy of its own, with what was written to it as it is now.
    pairs = zip(x.split(1), labels.split(1), strict=True)
    exact = torch.cat([sketched.expected(model, one, 16, 0)[0] for one in pairs])
    norms = [oracle.norms(model, [one]) for one in x.split(1)]
    before = snapshot(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        for verify in {False, way not in ALONE}:
            for params in ("all", "last_layer"):
                keep = (lambda n: n[:4] == "head") if params != "all" else (lambda n: True)
                expected = torch.cat([table.scores("expected", keep=keep) for table in norms])
                found = score_pool(model, [x], verify=verify, params=params, progress=False)
                assert_close_relative(found, expected, 1e-5)
            found = sketched.found(model, [(x, labels)], 16, 0, verify=verify)
            assert (found - exact).norm() <= 1e-5 * exact.norm()
    assert_unchanged(before, model)
