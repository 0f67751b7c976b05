"""Channels that are last in memory stay so, forward and back, where what follows gains by it."""

from functools import partial

import pytest
import torch
from torch.func import vjp, vmap
from torch.nn import functional as F

from fastgradnorm._operations.folded_convolutions import conv
from fastgradnorm._operations.fused_norms import group_norm
from fastgradnorm._operations.joining import cat
from fastgradnorm._operations.pooling import mean
from fastgradnorm._operations.transposed_convolutions import conv_transposed

S, K, C = 3, 2, 12  # samples, cotangents, channels
_WEIGHT, _POINT, _SCALE = torch.randn(C, C, 2, 2), torch.randn(C, C, 1, 1), torch.randn(C)
_join = partial(cat, torch.cat, channels_last=True)

OPERATIONS = {
    "transposed convolution": lambda x: conv_transposed(
        F.conv_transpose2d, 2, x, _WEIGHT, None, 2, channels_last=True
    ),
    "group norm": lambda x: group_norm(x, 3, _SCALE, _SCALE),
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
