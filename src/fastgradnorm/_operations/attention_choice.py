"""Which way attention is computed on a device.

A fused kernel is tried on a few numbers before it is relied on, forward and back: it must be there,
take the layout it is given, and in float32 not round to TF32. Where one does not, the next is
taken, and the formula at last.
"""

import functools
import math
import warnings
from typing import Any

import torch
from fastgradnorm_kernels.operators import has_flash_attention
from torch import Tensor

from fastgradnorm._errors import SlowPathWarning
from fastgradnorm._operations.attention_kernels import EFFICIENT, FLASH, FORMULA, ON_CPU, Given, Way

_TOLERANCE = {torch.float32: 1e-5}
_TOLERANCE_HALF = 2e-2


def choose(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Way:
    """The way for q `[B, H, T, D]`, k `[B, H, S, D]`, v `[B, H, S, E]`, mask `[B, H, T, S]`."""
    if not q.dtype == k.dtype == v.dtype or 0 in (*q.shape, *k.shape, *v.shape):
        return FORMULA
    if q.device.type == "cpu":
        return ON_CPU if q.shape[-1] == v.shape[-1] and has_flash_attention() else FORMULA
    if q.device.type != "cuda" or q.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return FORMULA
    sizes = (q.shape[-1], v.shape[-1])
    kind = q.device, q.dtype, sizes, mask is not None, is_causal
    allowed: Any = torch.backends.cuda
    flash = _suits_flash(q, k, v, mask, is_causal) and allowed.flash_sdp_enabled()
    if flash and _works(FLASH, *kind):
        return FLASH
    efficient = allowed.mem_efficient_sdp_enabled()
    if efficient and _works(EFFICIENT, *kind):
        return EFFICIENT
    return FORMULA


def _suits_flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> bool:
    if mask is not None or q.dtype == torch.float32 or q.shape[-1] != v.shape[-1]:
        return False
    # Of more keys than queries a causal row sees the last ones there, and the first ones here.
    return q.shape[-1] <= 256 and (not is_causal or q.shape[-2] == k.shape[-2])


@functools.cache
def _works(
    way: Way,
    device: torch.device,
    dtype: torch.dtype,
    sizes: tuple[int, int],
    masked: bool,
    is_causal: bool,
) -> bool:
    """Whether a fused kernel gives what the formula does, tried once for each kind of input."""
    with torch.no_grad():
        inputs = _few_numbers(device, dtype, sizes, masked, square=way is FLASH and is_causal)
        wide = [None if t is None else t.double() for t in inputs]
        exact = _both(FORMULA, is_causal, *wide)
        try:
            found = _both(way, is_causal, *inputs)
            error = max(
                float((f.double() - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True)
            )
            reason = f"is off by {error:.1e}"
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError, TypeError) as failure:
            error, reason = math.inf, f"failed: {failure}"
    if error <= _TOLERANCE.get(dtype, _TOLERANCE_HALF):
        return True
    warnings.warn(
        f"A fused attention kernel of this PyTorch {reason} on {device} for {dtype}. Attention is "
        "computed by its formula instead: exact, with more memory and time.",
        SlowPathWarning,
        stacklevel=2,
    )
    return False


def _few_numbers(
    device: torch.device, dtype: torch.dtype, sizes: tuple[int, int], masked: bool, square: bool
) -> list[Tensor | None]:
    """g, q, k, v and a mask: of several samples, heads and tiles, and of lengths that are odd."""
    t, s = 70, 70 if square else 83
    d, e = sizes

    def numbers(*shape: int) -> Tensor:
        count = math.prod(shape)
        values = torch.arange(count, dtype=torch.float64, device=device)
        return torch.sin(values * 0.7 + values * values * 1e-3 + count).to(dtype).view(shape)

    mask = numbers(2, 1, t, s) if masked else None
    return [
        numbers(2, 2, t, e),
        numbers(2, 2, t, d),
        numbers(2, 2, s, d),
        numbers(2, 2, s, e),
        mask,
    ]


def _both(way: Way, is_causal: bool, *tensors: Any) -> tuple[Tensor, ...]:
    """Output and gradients."""
    g, q, k, v, mask = tensors
    given = Given(q, k, v, mask, is_causal, q.shape[-1] ** -0.5)
    made = way.forward(given)
    return made.output, *way.backward(g, given, made)
