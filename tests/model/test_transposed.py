"""Parameters that are used as they are and transposed, or by several views of the same elements."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgradnorm import GradNormScorer, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

X = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0))
IDS = torch.randint(6, (5, 4), generator=torch.Generator().manual_seed(1))
LONG = torch.arange(19) % 5  # more pairs of positions than the gradient has numbers


def there_and_back(m, x):
    return m.head(torch.tanh(F.linear(torch.tanh(F.linear(x, m.W)), m.W.t())).sum(1))


def several_times(m, x):
    for _ in range(2):
        x = torch.softmax(x @ m.W.T, -1) @ m.W
    return m.head(x.sum(1))


def square(m, x):
    y = torch.tanh(x @ m.S) + torch.tanh(F.linear(x, m.S)) + torch.tanh(x @ m.S.mT)
    return m.head(y.sum(1))


def views(m, x):
    y = F.linear(x, m.W) * F.linear(x, m.W.view(8, 6)) + F.linear(x, m.W[:])
    return m.head(F.linear(torch.tanh(y), m.W.transpose(0, 1)).sum(1))


def slices(m, x):
    first, second = m.W[:4], m.W[4:]
    y = torch.tanh(F.linear(x, first)) @ first + torch.tanh(x @ second.t()) @ second
    return m.head(y.sum(1))


def one_position(m, x):
    x = torch.tanh(x.sum(1) @ m.W.t())
    return m.head(x @ m.W)


def added(m, x):
    rows = x.reshape(-1, 6)
    y = torch.addmm(rows, rows, m.S) + F.linear(rows, m.S)
    return m.head(torch.tanh(y).view(x.shape).sum(1))


def batched(m, x):
    y = torch.tanh(torch.bmm(x.mT, x) @ m.S)
    return m.head((m.S @ y).sum(1))


def lookup_and_logits(m, x):
    return m.head((torch.tanh(F.embedding(IDS[:1], m.S)) @ m.S.T + x).sum(1))


def lookup_and_back(m, x):
    return m.head((torch.tanh(F.linear(x, m.S)) @ m.S + F.embedding(IDS[:1], m.S)).sum(1))


def lookup_of_columns(m, x):
    return m.head((torch.tanh(F.linear(x, m.S)) + F.embedding(IDS[:1], m.S.t())).sum(1))


def lookup_of_rows_and_columns(m, x):
    return m.head((x * F.embedding(IDS[:1], m.S) + F.embedding(IDS[:1], m.S.t())).sum(1))


def long_lookup_and_logits(m, x):
    rows = torch.tanh(F.embedding(LONG[None], m.S, padding_idx=2))
    return m.head((rows @ m.S.T).sum(1) + x.sum(1))


def long_lookup_and_back(m, x):
    rows = torch.tanh(F.embedding(LONG[None], m.S))
    return m.head((torch.tanh(F.linear(rows, m.S)) @ m.S).sum(1) * x.sum(1))


def padded_lookup(m, x):
    y = F.embedding(IDS[:1], m.S, padding_idx=2)
    return m.head((torch.tanh(y) @ m.S.T + x).sum(1))


def padded_otherwise(m, x):
    y = F.embedding(IDS[:1], m.S, padding_idx=2) * x + F.embedding(IDS[1:2], m.S, padding_idx=-3)
    return m.head((F.embedding(IDS[2:3], m.S) + torch.tanh(y)).sum(1))


def kernels_turned(m, x):
    """A kernel's transposed image is no other layout of the weight, which has as many rows here."""
    x = x[..., :3].mT
    y = F.conv1d(x, m.K, padding=1) + 2 * F.conv1d(x, m.K.mT, padding=1)
    return m.head(torch.tanh(y).sum(2)[:, :6])


def convolved_and_back(m, x):
    """A tied autoencoder of convolutions, whose positions and strides differ on the way back."""
    y = torch.tanh(F.conv1d(x, m.C, stride=2, padding=1))
    return m.head(F.conv_transpose1d(y, m.C, stride=2, padding=1, output_padding=1).sum(1))


def back_in_groups(m, x):
    y = torch.tanh(F.conv_transpose1d(x, m.G, padding=1, groups=2))
    y = torch.tanh(F.conv_transpose1d(y, m.G, padding=2, dilation=2, groups=2))
    return m.head(F.conv1d(y, m.G, padding=1, groups=2).sum(1))


def overlapping(m, x):
    return m.head((torch.tanh(F.linear(x, m.W[:5])) @ m.W[3:]).sum(1))


def reversed_rows(m, x):
    return m.head((torch.tanh(F.linear(x, m.S)) + F.linear(x, m.S.flip(0))).sum(1))


JOINED = [
    *(there_and_back, several_times, square, views, slices, one_position, added, batched),
    *(lookup_and_logits, lookup_and_back, lookup_of_columns, convolved_and_back, back_in_groups),
    *(padded_lookup, padded_otherwise, long_lookup_and_logits, long_lookup_and_back),
]
FORMED = [
    *(lookup_of_rows_and_columns, kernels_turned, overlapping, reversed_rows),
]


def make(forward):
    torch.manual_seed(0)
    model = Custom(forward, head=linear(6, 3)).eval()
    model.W = nn.Parameter(torch.randn(8, 6) / 3)
    model.S = nn.Parameter(torch.randn(6, 6) / 3)
    model.K = nn.Parameter(torch.randn(9, 3, 3))
    model.C, model.G = nn.Parameter(torch.randn(5, 4, 3)), nn.Parameter(torch.randn(4, 2, 3))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["expected", "entropy"])
@pytest.mark.parametrize("forward", [*JOINED, *FORMED], ids=lambda forward: forward.__name__)
def test_each_element_counts_once(forward, scheme):
    model = make(forward)
    exact = oracle.scores(model, oracle.ones(X), scheme)
    for options in ({}, {"verify": False}, {"backend": "torch", "max_memory": 1 << 20}):
        found = score_pool(model, [X], scheme=scheme, progress=False, **options)
        assert_close_relative(found, exact, 1e-5, forward.__name__)


@pytest.mark.parametrize("forward", JOINED, ids=lambda forward: forward.__name__)
def test_no_gradient_is_formed(forward):
    table = GradNormScorer(make(forward), progress=False).explain(X)
    assert "leftover" not in {row.rule for row in table.rows if row.parameter != "K"}


def test_under_autocast():
    """One factor of an exchanged pair is narrow, the other need not be."""
    model = make(there_and_back)
    exact = oracle.scores(model, oracle.ones(X), "entropy")
    found = score_pool(model, [X], scheme="entropy", autocast=torch.bfloat16, progress=False)
    assert_close_relative(found, exact, 0.05)
