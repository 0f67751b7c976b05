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

_BYTES = 16  # what kernels load at a time, and rows must begin at multiples of
_MASK = 16  # the same for masks, in elements


class Given(NamedTuple):
    """One call.

    Attributes:
        q: Queries `[B, H, T, D]`.
        k: Keys `[B, H, S, D]`.
        v: Values `[B, H, S, E]`.
        mask: Added to the scores, `[B or 1, H or 1, T, S]`, or None.
        is_causal: Whether a position sees those up to itself alone.
        scale: Of the scores.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    is_causal: bool
    scale: float


class Made(NamedTuple):
    """What a forward pass leaves for its backward pass.

    Attributes:
        output: `[B, H, T, E]`.
        rows: The log-sum-exp of each row, `[B, H, T]`.
        kept: What a kernel's backward pass asks for besides.
    """

    output: Tensor
    rows: Tensor
    kept: tuple[Any, ...] = ()


Gradients = tuple[Tensor, Tensor, Tensor]  # by q, k and v


class Way(NamedTuple):
    """How attention is computed."""

    forward: Callable[[Given], Made]
    backward: Callable[[Tensor, Given, Made], Gradients]


def _formula_forward(given: Given) -> Made:
    pairs = scores(given)
    top = pairs.amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)  # a row that sees nothing gives zeros
    e = (pairs - top).exp_()
    total = e.sum(-1, keepdim=True)
    output = (e @ given.v.to(e.dtype)) / total.clamp_min(torch.finfo(e.dtype).tiny)
    return Made(output.to(given.q.dtype), (top + total.log())[..., 0])


def _formula_backward(g: Tensor, given: Given, made: Made) -> Gradients:
    q, k, v, _, _, scale = given
    output, rows, _ = made
    pairs = scores(given)
    p = (pairs - torch.where(rows == -torch.inf, 0.0, rows)[..., None]).exp_()
    wide_g, wide_v = g.to(p.dtype), v.to(p.dtype)
    grad_v = p.mT @ wide_g
    # Through the softmax, whose rows add up to one: p (dp - Σ p dp), the sum being g · output.
    inner = (wide_g * output.to(p.dtype)).sum(-1, keepdim=True)
    p *= (wide_g @ wide_v.mT - inner) * scale
    return (p @ k.to(p.dtype)).to(q.dtype), (p.mT @ q.to(p.dtype)).to(k.dtype), grad_v.to(v.dtype)


def scores(given: Given) -> Tensor:
    """`[B, H, T, S]`, in float32 at least."""
    q, k, _, mask, is_causal, scale = given
    wide = torch.promote_types(q.dtype, torch.float32)
    pairs = (q.to(wide) * scale) @ k.to(wide).mT
    if is_causal:
        seen = torch.ones(pairs.shape[-2:], dtype=torch.bool, device=q.device).tril()
        pairs.masked_fill_(~seen, -torch.inf)
    return pairs if mask is None else pairs + mask


def _cpu_forward(given: Given) -> Made:
    output, rows = operators.flash_attention(*_wide_last(given))
    return Made(output.to(given.q.dtype), rows)


def _cpu_backward(g: Tensor, given: Given, made: Made) -> Gradients:
    q, k, v, mask, is_causal, scale = _wide_last(given)
    options = mask, (made.output.to(q.dtype), made.rows), is_causal, scale
    g = g.to(q.dtype).contiguous()
    grad_q, grad_k, grad_v = operators.flash_attention_backward(g, q, k, v, *options)
    dtype = given.q.dtype
    return grad_q.to(dtype), grad_k.to(dtype), grad_v.to(dtype)


def _wide_last(given: Given) -> Given:
    """With the last dimensions contiguous: the kernels read them so, and do not ask.

    In float32 at least: of bfloat16 they take four times as long back, and twice forward.
    """

    def laid(tensor: Tensor) -> Tensor:
        tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        return tensor if tensor.stride(-1) == 1 else tensor.contiguous()

    q, k, v, mask, is_causal, scale = given
    mask = None if mask is None else laid(mask)
    return Given(laid(q), laid(k), laid(v), mask, is_causal, scale)


def _efficient_forward(given: Given) -> Made:
    q, k, v, mask, is_causal, scale = given
    kernel = operators.efficient_attention
    args = (_aligned(q), _aligned(k), _aligned(v), _aligned_mask(mask, q))
    output, rows, *kept = kernel(*args, True, 0.0, is_causal, scale=scale)
    return Made(output[..., : v.shape[-1]], rows, tuple(kept))


def _efficient_backward(g: Tensor, given: Given, made: Made) -> Gradients:
    q, k, v, mask, is_causal, scale = given
    output, rows, kept = made
    kernel = operators.efficient_attention_backward
    args = (_aligned(g), _aligned(q), _aligned(k), _aligned(v), _aligned_mask(mask, q))
    wanted = [True, True, True, False]
    args = (*args, _aligned(output), rows.contiguous(), *kept, 0.0, wanted, is_causal)
    grads = kernel(*args, scale=scale)[:3]
    return _without_padding(grads, given)


def _flash_forward(given: Given) -> Made:
    q, k, v, _, is_causal, scale = given
    kernel = operators.cuda_flash_attention
    found = kernel(_aligned(q), _aligned(k), _aligned(v), 0.0, is_causal, False, scale=scale)
    output, rows, *kept, _ = found
    return Made(output[..., : v.shape[-1]], rows, tuple(kept))


def _flash_backward(g: Tensor, given: Given, made: Made) -> Gradients:
    q, k, v, _, is_causal, scale = given
    output, rows, kept = made
    kernel = operators.cuda_flash_attention_backward
    *lengths, seed, offset = kept
    args = (*map(_aligned, (g, q, k, v, output)), rows.contiguous(), *lengths, 0.0, is_causal)
    grads = kernel(*args, seed, offset, scale=scale)
    return _without_padding(grads, given)


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


def _without_padding(grads: tuple[Tensor, ...], given: Given) -> Gradients:
    grad_q, grad_k, grad_v = (
        grad[..., : of.shape[-1]] for grad, of in zip(grads, given[:3], strict=True)
    )
    return grad_q, grad_k, grad_v


FORMULA = Way(_formula_forward, _formula_backward)
ON_CPU = Way(_cpu_forward, _cpu_backward)
EFFICIENT = Way(_efficient_forward, _efficient_backward)
FLASH = Way(_flash_forward, _flash_backward)
