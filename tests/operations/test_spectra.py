"""Spectrograms and their inverse: at once, and as PyTorch has them.

Warnings are errors in these tests, so that an operation which is left to PyTorch fails.
"""

import pytest
import torch

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

HANN, SHORT = torch.hann_window(16).double(), torch.hamming_window(10).double()
OPTIONS = {
    "plain": {"n_fft": 16, "window": HANN},
    "a hop": {"n_fft": 16, "hop_length": 5, "window": HANN},
    "a short window": {"n_fft": 16, "hop_length": 4, "win_length": 10, "window": SHORT},
    "no window": {"n_fft": 15, "hop_length": 7, "window": torch.ones(15).double()},
    "normalised": {"n_fft": 16, "window": HANN, "normalized": True},
    "from the start": {"n_fft": 12, "window": torch.ones(12).double(), "center": False},
}


def spectrum(x, **options):
    return torch.stft(x, return_complex=True, **options)


def sound(x):
    """`[N, 48]`, of what came of a linear layer."""
    return torch.cat([x, x.cumsum(1)], 1)


def there(options):
    return lambda x: spectrum(sound(x), **options).abs().flatten(1)


def and_back(options, **more):
    def way(x):
        found = spectrum(sound(x), **options)
        found = found * torch.linspace(0.1, 1, found.shape[1]).double()[:, None]
        return torch.istft(found, **options, **more)

    return way


WAYS = {f"stft, {name}": there(options) for name, options in OPTIONS.items()}
WAYS |= {f"istft, {name}": and_back(options) for name, options in OPTIONS.items()}
WAYS |= {
    "istft, longer": and_back(OPTIONS["plain"], length=60),
    "istft, shorter": and_back(OPTIONS["plain"], length=30),
    "stft, both sides": there({**OPTIONS["plain"], "onesided": False}),
    "stft, padded by zeros": there({**OPTIONS["plain"], "pad_mode": "constant"}),
    "stft, each": lambda x: (
        torch.stack([spectrum(s, n_fft=16, window=HANN) for s in sound(x)]).abs().flatten(1)
    ),
    "stft, method": lambda x: sound(x).stft(16, window=HANN, return_complex=True).real.flatten(1),
}


@pytest.mark.filterwarnings("ignore:The length of signal is shorter")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_it_is_exact_and_runs_at_once(way):
    torch.manual_seed(0)
    body, x = linear(5, 24).double(), torch.randn(5, 5).double()
    size = way(torch.tanh(body(x))).shape[1]
    head = linear(size, 3).double()
    model = Custom(lambda m, x: m.head(way(torch.tanh(m.body(x)))), body=body, head=head)
    table = oracle.norms(model, oracle.ones(x))
    for options in ({}, {"verify": False}, {"verify": False, "params": "last_layer"}):
        keep = (lambda n: n[:4] == "head") if "params" in options else (lambda n: True)
        scores = score_pool(model, x.split(3), progress=False, **options)
        assert_close_relative(scores, table.scores("expected", keep=keep), 1e-9, str(options))
