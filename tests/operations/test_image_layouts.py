"""Channels that are last in memory stay so, forward and back, where what follows gains by it."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import vjp, vmap
from torch.nn import functional as F

from fastgradnorm import score_pool
from fastgradnorm._operations.folded_convolutions import conv
from fastgradnorm._operations.fused_norms import group_norm
from fastgradnorm._operations.joining import cat
from fastgradnorm._operations.pooling import mean
from fastgradnorm._operations.regrouping import OPERATIONS as REGROUPED
from fastgradnorm._operations.transposed_convolutions import conv_transposed
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

S, K, C = 3, 2, 12  # samples, cotangents, channels
_WEIGHT, _POINT, _SCALE = torch.randn(C, C, 2, 2), torch.randn(C, C, 1, 1), torch.randn(C)


def _by(function):
    """Its form."""
    return partial(REGROUPED[function].form, channels_last=True)


def _shuffled(x):
    parted = _by(torch.Tensor.view)(x, len(x), 3, -1, *x.shape[2:])
    return _by(torch.reshape)(parted.transpose(1, 2), x.shape)


_join = partial(cat, torch.cat, channels_last=True)

OPERATIONS = {
    "transposed convolution": lambda x: conv_transposed(
        F.conv_transpose2d, 2, x, _WEIGHT, None, 2, channels_last=True
    ),
    "group norm": lambda x: group_norm(x, 3, _SCALE, _SCALE),
    "shuffled channels": _shuffled,
    "shuffled and contiguous": lambda x: _by(torch.Tensor.view)(
        _by(torch.Tensor.contiguous)(x.unflatten(1, (3, 4)).transpose(1, 2)), x.shape
    ),
    "chunks": lambda x: _by(torch.chunk)(x, 2, dim=1)[1],
    "sections": lambda x: _by(torch.Tensor.split)(x, [5, C - 5], -3)[0],
    "averages": lambda x: _by(F.avg_pool2d)(x, 3, 1, 1),
    "padded averages": lambda x: _by(F.avg_pool2d)(x, (2, 3), stride=1, padding=(1, 1)),
    "joined channels": lambda x: _join([x, x.square()], dim=1),
    "joined rows": lambda x: _join([x, x.square()], 2),
    "joined by name": lambda x: _join(tensors=[x, x.square()], dim=-1),
}


def _images(count, channels=C, side=6):
    return torch.randn(count, 1, side, side, channels).movedim(-1, 2)


def _is_last(t):
    return t.stride(-3) == 1 and t.stride(-1) > 1


def _passes(function, x):
    """Outputs `[S, ...]`, and pulled-back cotangents with the channels last, `[S, K, ...]`."""

    def per_sample(x):
        # As behind a convolution, which has the channels last and pulls back so.
        before = partial(conv, F.conv2d, 2, weight=_POINT, channels_last=True)
        y, pull = vjp(lambda x: function(before(x)), x)
        cotangents = torch.ones(K, 1, *y.shape[2:], y.shape[1]).movedim(-1, 2)
        return y, vmap(lambda c: pull(c)[0])(cotangents)

    return vmap(per_sample)(x)


@pytest.mark.parametrize("name", OPERATIONS)
def test_of_images(name):
    y, pulled = _passes(OPERATIONS[name], _images(S))
    assert _is_last(y)
    assert _is_last(pulled)


@pytest.mark.parametrize("name", ["joined channels", "joined rows", "joined by name"])
def test_positions_that_are_last_stay_so(name):
    y = vmap(OPERATIONS[name])(_images(S).contiguous())
    assert y.is_contiguous()


def test_as_most_of_the_numbers_are():
    x = _images(S)
    more = x.repeat(1, 1, 2, 1, 1).contiguous()
    assert not _is_last(vmap(lambda x, more: _join([x, more], 1))(x, more))
    assert _is_last(vmap(lambda x, more: _join([more, x], 1))(more[:, :, :1], x))


def test_a_model_that_counts_on_contiguous_memory_gets_it():
    joined = partial(cat, torch.cat, channels_last=False)
    assert vmap(lambda x: joined([x, x], 1))(_images(S)).is_contiguous()


def test_an_average_is_pulled_back_without_a_copy_for_each_position():
    x = torch.randn(S, 4, 6, 5)
    for dims in ((-2, -1), [1, 2], -1):
        _, pull = vjp(lambda x, dims=dims: mean(torch.Tensor.mean, x, dims), x)
        (pulled,) = pull(torch.randn_like(x.mean(dims)))
        assert 0 in pulled.stride()


REGROUPINGS = {
    "view": lambda x: x.view(len(x), 3, -1, *x.shape[2:]).square().sum(1),
    "unknown size first": lambda x: x.reshape(-1, 2, 6, *x.shape[2:])[:, 1],
    "shuffle": lambda x: x.view(len(x), 2, 6, 6, 6).transpose(1, 2).reshape(x.shape),
    "shuffle, contiguous": lambda x: (
        x.view(len(x), 2, 6, 6, 6).transpose(1, 2).contiguous().view(x.shape)
    ),
    "shuffle, contiguous and flat": lambda x: (
        x.view(len(x), 2, 6, 6, 6).mT.contiguous().view(len(x), -1).view(x.shape)
    ),
    "by tuple": lambda x: (
        torch.reshape(x, (len(x), 3, 4, 6, 6)).permute(0, 2, 1, 3, 4).reshape(x.shape)
    ),
    "positions too": lambda x: x.reshape(len(x), 24, 3, 6),
    "samples too": lambda x: x.reshape(len(x) * 2, 6, 6, 6).view(x.shape),
    "flat": lambda x: x.reshape(len(x), -1)[:, :432].view(len(x), 12, 6, 6),
    "in place": lambda x: (x.view(len(x), 3, 4, 6, 6)[:, 1].mul_(2), x)[1],
    "chunks": lambda x: torch.cat([*x.chunk(5, 1)][::-1], 1),
    "sections": lambda x: torch.split(x, [3, 9], dim=1)[1].sin(),
    "sections of rows": lambda x: x.split(4, 2)[0],
    "places": lambda x: x.tensor_split((2, 5), 1)[1],
    "gates": lambda x: torch.mul(*torch.chunk(x, 2, dim=-3)),
    "averages": lambda x: F.avg_pool2d(x, 2),
    "averages with padding": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "of pixels alone": lambda x: F.avg_pool2d(x, (3, 2), 1, (1, 0), count_include_pad=False),
    "windows cut off": lambda x: F.avg_pool2d(x, 4, 4, ceil_mode=True),
    "other divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["expected", "entropy"])
@pytest.mark.parametrize("name", REGROUPINGS)
def test_scores_of_regrouped_channels(name, scheme):
    regroup = REGROUPINGS[name]

    def forward(m, x):
        y = regroup(torch.tanh(m.first(x)) * 1.5)
        return m.head(y.square().mean((2, 3))[:, : m.head.in_features])

    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, 6)
    model = Custom(forward, first=nn.Conv2d(3, 12, 3, padding=1)).eval()
    model.head = linear(regroup(torch.zeros(1, 12, 6, 6)).shape[1], 10)
    exact = oracle.scores(model, oracle.ones(x), scheme)
    assert_close_relative(score_pool(model, [x], scheme=scheme, progress=False), exact, 1e-5, name)


def test_what_an_average_pool_cannot_be():
    model = Custom(lambda m, x: F.avg_pool2d(m.first(x), 9).flatten(1), first=nn.Conv2d(3, 12, 1))
    with pytest.raises(ValueError, match="too small"):
        score_pool(model.eval(), [torch.randn(4, 3, 6, 6)], progress=False)


def test_averages_in_bfloat16_are_not_all_off_alike():
    """Sixteen pools by a 25th that bfloat16 rounds up by a thousandth make 1.5 % of the norms."""

    def forward(m, x):
        y = m.first(x)
        for _ in range(16):
            y = F.avg_pool2d(y, 5, 1, 2) * 1.25
        return m.head(y.mean((2, 3)))

    torch.manual_seed(0)
    model = Custom(forward, first=nn.Conv2d(3, 12, 3), head=nn.Linear(12, 4)).bfloat16().eval()
    model.head.requires_grad_(False)
    x = (torch.randn(6, 3, 11, 11) + 1).bfloat16()
    exact = oracle.scores(model, oracle.ones(x))
    scores = score_pool(model, [x], progress=False, verify=False)
    assert ((scores - exact) / exact).mean().abs() <= 0.005
