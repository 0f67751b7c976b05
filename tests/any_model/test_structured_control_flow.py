"""`torch.cond` and loops of PyTorch's higher-order operators: the Python that they stand for."""

import pytest
import torch
from torch import nn

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

higher_order = torch._higher_order_ops
functorch_map = higher_order.map


def rows(function):
    return lambda m, h: torch.stack([function(m, row) for row in h])


def thrice(m, h):
    for _ in range(3):
        h = torch.tanh(m.mid(h))
    return h


def over_columns(m, h):
    carried = torch.zeros(len(h), 4).double()
    for column in h.t():
        carried = torch.tanh(m.mid(carried) + column[:, None])
    return carried


def scanned(m, h):
    def step(carried, column):
        return torch.tanh(m.mid(carried) + column[:, None]), carried.sum(1)

    return higher_order.scan(step, torch.zeros(len(h), 4).double(), h.t())[0]


def gathered(m, h):
    """What a scan gives for each column, in place of what it carries."""
    _, given = higher_order.scan(
        lambda carried, column: (carried + column, m.gain * torch.tanh(carried + column)),
        torch.zeros(len(h)).double(),
        h.t(),
    )
    return given.t()


def scanned_with_more(m, h):
    """By the operator itself, which takes what steps need beside."""
    carried, rows = torch.ops.higher_order.scan(
        lambda carried, column, w: [torch.tanh((carried + column[:, None]) @ w), carried.sum(1)],
        [torch.zeros(len(h), 4).double()],
        [h.t()],
        (m.mid.weight,),
    )
    return carried + rows.t()


def over_columns_with_more(m, h):
    carried, rows = torch.zeros(len(h), 4).double(), []
    for column in h.t():
        rows.append(carried.sum(1))
        carried = torch.tanh((carried + column[:, None]) @ m.mid.weight)
    return carried + torch.stack(rows, 1)


def looped_with_more(m, h):
    return torch.ops.higher_order.while_loop(
        lambda i, h, w, n: i < n,
        lambda i, h, w, n: (i + 1, torch.tanh(h @ w)),
        (torch.tensor(0), h),
        (m.mid.weight, torch.tensor(2)),
    )[1]


def mapped_with_more(m, h):
    both = functorch_map(lambda row, w: {"a": row @ w, "b": torch.tanh(row)}, h, m.mid.weight)
    return both["a"] * both["b"]


def cond(pred):
    def branch(m, h):
        return torch.cond(
            pred(m, h), lambda h: torch.tanh(m.mid(h)), lambda h: m.mid(h).sin(), (h,)
        )

    def plain(m, h):
        return torch.tanh(m.mid(h)) if bool(pred(m, h)) else m.mid(h).sin()

    return branch, plain


# How it is written, and the Python that it stands for.
WAYS = {
    "cond-of-each-row": [rows(way) for way in cond(lambda m, h: h.sum() > 0)],
    "cond-of-a-parameter": cond(lambda m, h: m.mid.bias.sum() > 0),
    "cond-of-a-shape": cond(lambda m, h: h.shape[1] > 3),
    "cond-of-what-it-is-given": (
        lambda m, h: torch.cond(
            m.gain > 0, lambda h, w: h @ w, lambda h, w: h @ w.t(), (h, m.mid.weight)
        ),
        lambda m, h: h @ m.mid.weight if m.gain > 0 else h @ m.mid.weight.t(),
    ),
    "cond-in-a-cond": (
        lambda m, h: torch.cond(
            m.gain > 0,
            lambda h: torch.cond(m.gain > 100, lambda h: h, lambda h: torch.tanh(m.mid(h)), (h,)),
            lambda h: h.sin(),
            (h,),
        ),
        lambda m, h: torch.tanh(m.mid(h)),
    ),
    "while_loop": (
        lambda m, h: higher_order.while_loop(
            lambda i, h: i < 3,
            lambda i, h: (i + 1, torch.tanh(m.mid(h))),
            (torch.tensor(0), h),
        )[1],
        thrice,
    ),
    "scan": (scanned, over_columns),
    "scan-that-gives": (gathered, lambda m, h: m.gain * torch.tanh(h.cumsum(1))),
    "scan-with-more": (scanned_with_more, over_columns_with_more),
    "while_loop-with-more": (
        looped_with_more,
        lambda m, h: torch.tanh(torch.tanh(h @ m.mid.weight) @ m.mid.weight),
    ),
    "map-with-more": (mapped_with_more, lambda m, h: h @ m.mid.weight * torch.tanh(h)),
    "map": (lambda m, h: functorch_map(lambda row: torch.tanh(m.mid(row)), h), rows(
        lambda m, row: torch.tanh(m.mid(row)))),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("written, plain", WAYS.values(), ids=WAYS.keys())
def test_they_are_exact_and_fast(written, plain):
    torch.manual_seed(0)
    parts = {"body": linear(4, 4), "mid": linear(4, 4), "head": linear(4, 3)}

    def model(way):
        made = Custom(lambda m, x: m.head(way(m, m.body(x))), **parts)
        made.gain = nn.Parameter(torch.tensor(1.5))
        return made.double()

    x = torch.randn(5, 4).double()
    expected = oracle.scores(model(plain), oracle.ones(x))
    for verify in (True, False):
        scores = score_pool(model(written), x.split(3), verify=verify, progress=False)
        assert_close_relative(scores, expected, 1e-9, f"verify={verify}")
