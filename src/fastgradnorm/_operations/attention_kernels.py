"""Attention of plain tensors, forward and back, in the ways there are.

PyTorch's own backward passes of the fused kernels are called, with the log-sum-exp of each row that
the forward pass kept, so that nothing runs twice. The formula is exact, and has a matrix of all
pairs in memory.

In deterministic mode equal inputs give equal bits on every device. Without it the CUDA kernels may
add up the gradients of queries and keys in any order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from fastgradnorm_kernels import operators
from torch import Tensor
from torch.nn import functional as F

_Kept = tuple[Any, ...]  # what a kernel's backward pass asks for besides tensors of the batch
_BYTES = 16  # what kernels load at a time, and rows must begin at multiples of
_MASK = 16  # the same for masks, in elements


class Way(NamedTuple):
    """How attention is computed.

    Attributes:
        forward: `(q, k, v, mask, is_causal, scale) -> (output, rows, kept)`.
        backward: `(g, q, k, v, mask, output, rows, kept, is_causal, scale) -> grads of q, k, v`.
    """

    forward: Callable[..., tuple[Tensor, Tensor, _Kept]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


def _formula_forward(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor, _Kept]:
    scores = _scores(q, k, mask, is_causal, scale)
    top = scores.amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)  # a row that sees nothing gives zeros
    e = (scores - top).exp_()
    total = e.sum(-1, keepdim=True)
    output = (e @ v.to(e.dtype)) / total.clamp_min(torch.finfo(e.dtype).tiny)
    return output.to(q.dtype), (top + total.log())[..., 0], ()


def _formula_backward(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    output: Tensor,
    rows: Tensor,
    kept: _Kept,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    scores = _scores(q, k, mask, is_causal, scale)
    p = (scores - torch.where(rows == -torch.inf, 0.0, rows)[..., None]).exp_()
    wide_g, wide_v = g.to(p.dtype), v.to(p.dtype)
    grad_v = p.mT @ wide_g
    # Through the softmax, whose rows add up to one: p (dp - Σ p dp), the sum being g · output.
    inner = (wide_g * output.to(p.dtype)).sum(-1, keepdim=True)
    p *= (wide_g @ wide_v.mT - inner) * scale
    return (p @ k.to(p.dtype)).to(q.dtype), (p.mT @ q.to(p.dtype)).to(k.dtype), grad_v.to(v.dtype)


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, is_causal: bool, scale: float) -> Tensor:
    """`[B, H, T, S]`, in float32 at least."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(wide) * scale) @ k.to(wide).mT
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores.masked_fill_(~seen, -torch.inf)
    return scores if mask is None else scores + mask


def _cpu_forward(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor, _Kept]:
    q, k, v = (_contiguous_last(t) for t in (q, k, v))
    mask = None if mask is None else _contiguous_last(mask)
    output, rows = operators.flash_attention(q, k, v, mask, is_causal, scale)
    return output, rows, ()


def _cpu_backward(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    output: Tensor,
    rows: Tensor,
    kept: _Kept,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (_contiguous_last(t) for t in (q, k, v))
    mask = None if mask is None else _contiguous_last(mask)
    options = mask, (output, rows), is_causal, scale
    grad_q, grad_k, grad_v = operators.flash_attention_backward(g.contiguous(), q, k, v, *options)
    return grad_q, grad_k, grad_v


def _contiguous_last(tensor: Tensor) -> Tensor:
    """With the last dimension contiguous: the kernels read it so, and do not ask."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _efficient_forward(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor, _Kept]:
    kernel = operators.efficient_attention
    args = (_aligned(q), _aligned(k), _aligned(v), _aligned_mask(mask, q))
    output, rows, *kept = kernel(*args, True, 0.0, is_causal, scale=scale)
    return output[..., : v.shape[-1]], rows, tuple(kept)


def _efficient_backward(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    output: Tensor,
    rows: Tensor,
    kept: _Kept,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    kernel = operators.efficient_attention_backward
    args = (_aligned(g), _aligned(q), _aligned(k), _aligned(v), _aligned_mask(mask, q))
    wanted = [True, True, True, False]
    args = (*args, _aligned(output), rows.contiguous(), *kept, 0.0, wanted, is_causal)
    grads = kernel(*args, scale=scale)[:3]
    return _without_padding(grads, q, k, v)


def _flash_forward(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor, _Kept]:
    kernel = operators.cuda_flash_attention
    found = kernel(_aligned(q), _aligned(k), _aligned(v), 0.0, is_causal, False, scale=scale)
    output, rows, *kept, _ = found
    return output[..., : v.shape[-1]], rows, tuple(kept)


def _flash_backward(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    output: Tensor,
    rows: Tensor,
    kept: _Kept,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    kernel = operators.cuda_flash_attention_backward
    *lengths, seed, offset = kept
    args = (*map(_aligned, (g, q, k, v, output)), rows.contiguous(), *lengths, 0.0, is_causal)
    grads = kernel(*args, seed, offset, scale=scale)
    return _without_padding(grads, q, k, v)


def _aligned(tensor: Tensor) -> Tensor:
    """Rows that begin at multiples of 16 bytes, positions before heads in memory if copied.

    Zeros behind a head change no product, and what they add to an output is zero.
    """
    each = _BYTES // tensor.element_size()
    missing = -tensor.shape[-1] % each
    if missing:
        tensor = F.pad(tensor, (0, missing))
    steps = (tensor.storage_offset(), *tensor.stride()[:-1])
    if tensor.stride(-1) == 1 and not any(step % each for step in steps):
        return tensor
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def _aligned_mask(mask: Tensor | None, q: Tensor) -> Tensor | None:
    """The same for masks, of which a row that is too short lies in one that is longer."""
    if mask is None:
        return None
    length, mask = mask.shape[-1], mask.to(q.dtype)
    steps = (mask.storage_offset(), *mask.stride()[:-1])
    if mask.stride(-1) != 1 or any(step % _MASK for step in steps):
        mask = F.pad(mask, (0, -length % _MASK)).contiguous()[..., :length]
    return mask.expand(*q.shape[:3], length)


def _without_padding(
    grads: tuple[Tensor, ...], q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad_q, grad_k, grad_v = (
        grad[..., : of.shape[-1]] for grad, of in zip(grads, (q, k, v), strict=True)
    )
    return grad_q, grad_k, grad_v


FORMULA = Way(_formula_forward, _formula_backward)
ON_CPU = Way(_cpu_forward, _cpu_backward)
EFFICIENT = Way(_efficient_forward, _efficient_backward)
FLASH = Way(_flash_forward, _flash_backward)
