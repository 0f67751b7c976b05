"""Numbers of a sample within an index: `hidden[i, length]`, `row[row.argmax()]`, `row[:length]`."""

import warnings

import pytest
import torch
from torch import nn

from fastgradnorm import SlowPathWarning, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear


def rows(function):
    return lambda m, h, n: torch.stack([function(m, each, k) for each, k in zip(h, n, strict=True)])


def by_place(m, h, n):
    return torch.stack([h[i, k] for i, k in enumerate(n)])


def written(m, h, n):
    h = h.clone()
    for i, k in enumerate(n):
        h[i, k] = 0.5
    return h.mean(1)


def written_by_rows(m, h, n):
    h = h.clone()
    for i, k in enumerate(n):
        h[i, k, 1:] = h[i, 0, 1:] * 2
        h[i, ..., k] = h[i, ..., 0] * 3
        h[i, k, k - 1] = 2.0
        h[i, :k] = 0.25 * h[i, :k]
    return h.mean(1)


# Of features `[N, 5, 4]` and a number of each sample from 0 to 3: `[N, 4]`.
WAYS = {
    "place": by_place,
    "place, from the end": rows(lambda m, row, k: row[-k]),
    "two numbers": rows(lambda m, row, k: row[k, k] * row[k + 1]),
    "after all": rows(lambda m, row, k: row[..., k] .mean() * row[0]),
    "a new dimension": rows(lambda m, row, k: row[None, k][0] * row[k, None][0]),
    "a slice beside it": rows(lambda m, row, k: row[1:, k].sum() * row[k, :]),
    "argmax": rows(lambda m, row, k: row[row[:, 0].argmax()]),
    "of a parameter": rows(lambda m, row, k: m.table[k] * row.mean(0)),
    "of a table": rows(lambda m, row, k: torch.arange(20.0).view(5, 4)[k] * row.mean(0)),
    "until": rows(lambda m, row, k: row[: k + 1].mean(0)),
    "from": rows(lambda m, row, k: row[k:].mean(0)),
    "every": rows(lambda m, row, k: row[:: k + 1].sum(0)),
    "beside a list": rows(lambda m, row, k: row[[0, 1], k].sum() * row[0]),
    "beside a mask": rows(lambda m, row, k: row[k, row[0] > -9.0]),
    "written": written,
    "rows written": written_by_rows,
}  # fmt: skip


def changed_in_place(m, h, n):
    """A view in PyTorch: what is written to it stands in the features."""
    h = h.clone()
    for i, k in enumerate(n):
        h[i, k].mul_(3.0)
    return h.mean(1)


def added_in_place(m, h, n):
    h = h.clone()
    for i, k in enumerate(n):
        h[i, k] += 1.0
        nn.functional.relu(h[i, 0 * k], inplace=True)
    return h.mean(1)


def scored(way, verify):
    torch.manual_seed(0)
    body, head = linear(4, 20).double(), linear(4, 3).double()

    def forward(m, x):
        numbers = (x[:, 0].abs() * 3).long().clamp(0, 3)
        return m.head(way(m, torch.tanh(m.body(x)).view(-1, 5, 4), numbers))

    model = Custom(forward, body=body, head=head)
    model.table = nn.Parameter(torch.randn(5, 4).double())
    x = torch.randn(6, 4).double()
    scores = score_pool(model, x.split(4), verify=verify, progress=False)
    assert_close_relative(scores, oracle.scores(model, oracle.ones(x)), 1e-9, f"verify={verify}")


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_they_are_exact_and_fast(way, verify):
    scored(way, verify)


@pytest.mark.parametrize("way", [changed_in_place, added_in_place])
def test_what_is_written_to_a_place_is_not_lost(way):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)
        scored(way, False)
