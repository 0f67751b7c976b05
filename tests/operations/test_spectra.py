"""Spectrograms and their inverse: at once, and as PyTorch has them.

Warnings are errors in these tests, so that an operation which is left to PyTorch fails.
"""

import pytest
import torch

from tests.support.activations import assert_exact_and_at_once

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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The length of signal is shorter")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_it_is_exact_and_runs_at_once(way):
    assert_exact_and_at_once(way)
