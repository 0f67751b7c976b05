"""Models that several files of tests use: around one layer, of attention, and one that branches."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.support.cases import Custom, linear, perturb


def after(layer, outputs, function=None, before=None):
    """`layer` between a first layer and a head over the mean of its positions.

    Args:
        outputs: Features of `layer`, in dimension 1 of what it returns.
        function: From the layer and its input to its output; by default a plain call.
        before: The first layer.
    """
    call = function or (lambda layer, x: layer(x))

    def forward(m, x):
        y = call(m.layer, x if m.before is None else torch.tanh(m.before(x)))
        return m.head(torch.tanh(y.flatten(2).mean(2) if y.dim() > 2 else y))

    head = nn.Linear(outputs, 3)
    return perturb(Custom(forward, before=before, layer=layer, head=head))


class Attention(nn.Module):
    """Multi-head attention over tokens `[N, T, 8]`, the last of which may be padding (zeros)."""

    def __init__(self, masked=False, causal=False, weights=False, cross=False, **options):
        super().__init__()
        self.masked, self.causal, self.weights, self.cross = masked, causal, weights, cross
        self.mha = nn.MultiheadAttention(8, 2, **options)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        padding = (x == 0).all(-1) if self.masked else None
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) if self.causal else None
        keys, values = x, x
        if self.cross:
            keys, values = x[..., : self.mha.kdim], x[..., : self.mha.vdim]
        if not self.mha.batch_first:
            x, keys, values = (t.transpose(0, 1) for t in (x, keys, values))
        out, _ = self.mha(
            x, keys, values, key_padding_mask=padding, attn_mask=mask, need_weights=self.weights
        )
        return self.head(torch.tanh(out).mean(1 if self.mha.batch_first else 0))


CALLS = ("mask", "float", "causal", "grouped", "scale", "none")


def calling(kind):
    """A model that calls `F.scaled_dot_product_attention` in one of the ways of `CALLS`."""

    def forward(m, x):
        q = m.q(x).unflatten(-1, (4, 2)).transpose(1, 2)
        k = m.k(x).unflatten(-1, (2 if kind == "grouped" else 4, 2)).transpose(1, 2)
        keep = (x != 0).any(-1)[:, None, None, :]
        options = {
            "mask": {"attn_mask": keep},
            "float": {"attn_mask": torch.where(keep, 0.0, -9.0).to(x.dtype)},
            "causal": {"is_causal": True},
            "grouped": {"enable_gqa": True},
            "scale": {"scale": 2.0},
            "none": {},
        }[kind]
        x = F.scaled_dot_product_attention(q, k, torch.tanh(k), **options)
        return m.head(x.transpose(1, 2).flatten(2).mean(1))

    keys = linear(8, 4 if kind == "grouped" else 8)
    return Custom(forward, q=linear(8, 8), k=keys, head=linear(8, 3))


def tokens(samples=4, length=5, width=8, padded=False):
    """Tokens `[N, T, D]`, of which some at the end are zeros."""
    x = torch.randn(samples, length, width)
    if padded:
        lengths = torch.arange(samples) % (length - 1) + 2
        x = x * (torch.arange(length) < lengths[:, None])[..., None]
    return x


class Branching(nn.Module):
    """Takes one of two layers, by a function of the input `[B, 4]`."""

    def __init__(self, choose):
        super().__init__()
        self.choose = choose
        self.yes, self.no, self.head = linear(4, 4), linear(4, 4), linear(4, 3)

    def forward(self, x):
        layer = self.yes if self.choose(x) else self.no
        return self.head(torch.tanh(layer(x)))
