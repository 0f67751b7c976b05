"""What a first convolution makes lies in memory as the exact products that follow have it."""

from functools import partial

import pytest
import torch
from fastgradnorm_kernels import exact_products
from torch.func import vjp, vmap
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from fastgradnorm._operations.folded_convolutions import conv

S, C = 3, 12  # samples, channels
_NEXT = torch.randn(C, C, 2, 2)


def _is_last(t):
    return t.stride(-3) == 1 and t.stride(-1) > 1


@pytest.mark.parametrize("exact", [True, False])
def test_a_first_layer_has_the_channels_last_where_exact_products_follow(exact, monkeypatch):
    monkeypatch.setattr(exact_products, "precedes", lambda x, weight: exact)
    images, weight = torch.randn(S, 1, 3, 4, 4), torch.randn(C, 3, 3, 3)

    def per_sample(x):
        def twice(tap):
            first = conv(F.conv2d, 2, x, weight, padding=1, channels_last=True) + tap
            return first, conv(F.conv2d, 2, first, _NEXT, channels_last=True)

        (first, y), pull = vjp(twice, torch.zeros(1, C, 4, 4))
        return first, y, pull((torch.zeros_like(first), torch.ones_like(y)))[0]

    first, y, pulled = vmap(per_sample)(images)
    assert _is_last(first) == exact
    expected = F.conv2d(images[:, 0], weight, padding=1)
    torch.testing.assert_close(first[:, 0], expected)
    torch.testing.assert_close(y[:, 0], F.conv2d(expected, _NEXT))
    back = conv2d_input(expected.shape, _NEXT, torch.ones_like(y[:, 0]))
    torch.testing.assert_close(pulled[:, 0], back)


def test_outputs_that_are_pulled_back_are_laid_out_by_their_own_kernel(monkeypatch):
    monkeypatch.setattr(exact_products, "precedes", lambda x, weight: True)
    few = partial(conv, F.conv2d, 2, weight=_NEXT, channels_last=True)
    y = vmap(lambda x: vjp(few, x)[0])(torch.randn(S, 1, C, 4, 4))
    assert not _is_last(y)
