"""Values written by indices that differ between samples: `x[:, index] = values`, in any place.

There vmap takes the dimensions of the values in another order: it failed, or, where sizes agree,
wrote the wrong ones.
"""

import pytest
import torch

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear


def each(function):
    """Of a map `[3, 4, 4]` of one sample, changed in place."""

    def way(m, h):
        rows = [row.clone() for row in h]
        for row in rows:
            function(m, row)
        return torch.stack(rows)

    return way


def made(function):
    """Of what it makes of such a map."""
    return lambda m, h: torch.stack([function(m, row) for row in h])


def two(row):
    return row[0, 0].topk(2).indices


def mask(row):
    return row[0, 0] >= row[0, 0].topk(2).values[-1]


def put(*index, value):
    """`row[index] = value`, where functions give their parts."""
    return each(
        lambda m, row: row.__setitem__(
            tuple(part(row) if callable(part) else part for part in index), value(m, row)
        )
    )


def by_sample(m, h):
    """Of the whole batch, with a number for each sample."""
    h, n = h.clone(), torch.arange(len(h))
    h[n, :, h[:, 0, 0].argmax(1)] = 2 * h[:, :, 1]
    h[n[:, None], torch.arange(3), h[:, :, 0].argmax(2)] = 0.5 * h[:, :, 2, 3:]
    return h


ALL, HALF = slice(None), torch.tensor(0.5).double()
WAYS = {
    "behind a slice": put(slice(0, 2), ALL, two, value=lambda m, row: 3 * row[:2, :, :2]),
    "behind an ellipsis": put(..., two, value=lambda m, row: 3 * row[..., :2]),
    "squares": put(slice(0, 2), two, value=lambda m, row: 3 * row[:2, :2]),
    "a row for all": put(ALL, two, value=lambda m, row: 3 * row[0, :2]),
    "behind a number": put(1, ALL, two, value=lambda m, row: 3 * row[1, :, :2]),
    "behind a new dimension": put(None, ALL, two, value=lambda m, row: 3 * row[None, :, :2]),
    "a number between": put(ALL, 1, two, value=lambda m, row: 3 * row[:, 1, :2]),
    "a mask": put(ALL, ALL, mask, value=lambda m, row: 3 * row[..., 1:3]),
    "a list beside it": put(ALL, [0, 3], two, value=lambda m, row: 3 * row[:, 1, :2]),
    "a table beside it": put(
        ALL, torch.tensor([0, 3]), two, value=lambda m, row: 3 * row[:, 1, :2]
    ),
    "two indices": put(ALL, two, lambda row: two(row).flip(0), value=lambda m, row: row[:, 0, :2]),
    "two apart": put(lambda row: two(row) % 3, ALL, two, value=lambda m, row: 3 * row[:2, :, 0]),
    "of two dimensions": put(
        ALL, lambda row: two(row)[:, None].expand(2, 2), value=lambda m, row: row[:, None, :2] + 1
    ),
    "a parameter": put(ALL, 0, two, value=lambda m, row: m.head.bias[:2]),
    "one number": put(ALL, ALL, two, value=lambda m, row: 0.5),
    "added": each(lambda m, row: row.__setitem__((..., two(row)), row[..., two(row)] + 1)),
    "by sample": by_sample,
    "index_put_, a mask": each(lambda m, row: row.index_put_((row > 0,), HALF)),
    "index_put_, a parameter": each(lambda m, row: row.index_put_((row > 0,), m.head.bias[0])),
    "index_put_, values": each(lambda m, row: row[0].index_put_((mask(row),), 3 * row[1, 1:3])),
    "index_put_, added": each(lambda m, row: row.index_put_((row > 0,), HALF, accumulate=True)),
    "index_put": made(lambda m, row: row.index_put((row > 0,), row.sum())),
    "index_put, of what is shared": made(
        lambda m, row: row + torch.ones(4).double().index_put((mask(row),), row[0, 0, 1:3])
    ),
    "index_put, as a function": made(
        lambda m, row: torch.index_put(row, (two(row) % 3, two(row)), row[:2, 1], accumulate=True)
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_they_are_exact_and_fast(way):
    torch.manual_seed(0)
    body, head = linear(5, 48).double(), linear(48, 3).double()

    def forward(m, x):
        return m.head(way(m, torch.tanh(m.body(x)).view(-1, 3, 4, 4)).flatten(1))

    model, x = Custom(forward, body=body, head=head), torch.randn(6, 5).double()
    expected = oracle.scores(model, oracle.ones(x))
    for verify in (True, False):
        scores = score_pool(model, x.split(4), verify=verify, progress=False)
        assert_close_relative(scores, expected, 1e-9, f"verify={verify}")
