"""Spectrograms and their inverse as Fourier transforms of frames: vmap runs them one by one.

Each function takes the arguments of the operation it stands for and gives the same values.
"""

from collections.abc import Callable
from typing import Any

import torch
from fastgradnorm_kernels.functorch import is_batched_anywhere
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.operation import Operation

_LEAST = 1e-11  # of a window's overlaps, below which PyTorch refuses to divide


def _whole_window(
    window: Tensor | None, n_fft: int, win_length: int | None, like: Tensor
) -> Tensor | None:
    """The window `[n_fft]`; None where it does not fit."""
    length = n_fft if win_length is None else win_length
    if window is None:
        window = torch.ones(length, dtype=like.dtype, device=like.device)
    if window.shape != (length,) or not 0 < length <= n_fft or window.is_complex():
        return None
    left = (n_fft - length) // 2
    return F.pad(window, (left, n_fft - length - left))


def stft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Tensor | None:
    """`torch.stft` of real numbers; else None."""
    hop = n_fft // 4 if hop_length is None else hop_length
    plain = input.is_floating_point() and input.dim() in (1, 2) and is_batched_anywhere(input)
    if not plain or hop < 1 or not return_complex or align_to_window:
        return None
    whole = _whole_window(window, n_fft, win_length, input)
    signal = input
    if center:
        half = n_fft // 2
        signal = F.pad(signal.view(1, -1, input.shape[-1]), (half, half), pad_mode)
        signal = signal.view(*input.shape[:-1], -1)
    if whole is None or signal.shape[-1] < n_fft:
        return None
    frames = signal.unfold(-1, n_fft, hop) * whole
    norm = "ortho" if normalized else "backward"
    transform = torch.fft.fft if onesided is False else torch.fft.rfft
    found: Tensor = transform(frames, norm=norm)
    return found.mT


def istft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor | None:
    """`torch.istft` to real numbers of one-sided spectrograms; else None."""
    hop = n_fft // 4 if hop_length is None else hop_length
    one_sided = input.is_complex() and input.dim() in (2, 3) and input.shape[-2] == n_fft // 2 + 1
    if not one_sided or return_complex or onesided is False or not is_batched_anywhere(input):
        return None
    real = torch.zeros(0, dtype=input.dtype.to_real(), device=input.device)
    whole = _whole_window(window, n_fft, win_length, real)
    if whole is None or not 0 < hop <= n_fft:
        return None
    norm = "ortho" if normalized else "backward"
    frames = torch.fft.irfft(input.mT, n_fft, norm=norm) * whole
    count = frames.shape[-2]
    size = n_fft + hop * (count - 1)
    places = hop * torch.arange(count, device=input.device)[:, None]
    places = (places + torch.arange(n_fft, device=input.device)).flatten()
    signal = torch.zeros_like(frames[..., :1, 0]).expand(*frames.shape[:-2], size)
    signal = signal.index_add(-1, places, frames.flatten(-2))
    squares = whole.square().expand(count, n_fft).flatten()
    overlaps = torch.zeros(size, dtype=whole.dtype, device=whole.device)
    overlaps = overlaps.index_add(0, places, squares)
    start = n_fft // 2 if center else 0
    end = size - start if length is None else start + length
    signal, overlaps = signal[..., start:end], overlaps[start:end]
    if not bool(overlaps.abs().min() > _LEAST):
        return None  # which PyTorch refuses
    return F.pad(signal / overlaps, (0, max(0, end - size)))


OPERATIONS: dict[Callable[..., Any], Operation] = {
    torch.stft: Operation(opened=stft),
    Tensor.stft: Operation(opened=stft),
    torch.istft: Operation(opened=istft),
    Tensor.istft: Operation(opened=istft),
}
