"""Scaled dot-product attention under vmap: samples and cotangents become the fused kernel's batch.

The fused kernels have no vmap rule, and without one PyTorch runs them once a sample and cotangent.
Attention has no parameters, so nothing but its speed and memory is at stake: both stay what the
kernel makes of them, memory linear in length.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_Rule = tuple[Any, Any]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """As `F.scaled_dot_product_attention`, or None where that one has to be called itself."""
    if dropout_p > 0 or query.dim() < 3 or query.dim() > 4:
        return None
    if attn_mask is not None and (attn_mask.requires_grad or attn_mask.dim() > query.dim()):
        return _plain(query, key, value, attn_mask, is_causal, scale)
    if enable_gqa and query.shape[-3] != key.shape[-3]:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(repeats, -3) for t in (key, value))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        zeros = torch.zeros_like(attn_mask, dtype=query.dtype)
        attn_mask = zeros.masked_fill(~attn_mask, -torch.inf)
    batched = query.dim() == 4
    q, k, v = (t if batched else t[None] for t in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if attn_mask is not None:  # [B, 1 or H, T, S]
        attn_mask = attn_mask.reshape((1,) * (4 - attn_mask.dim()) + attn_mask.shape)
        attn_mask = attn_mask.expand(len(q), -1, -1, -1)
    output: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        q, k, v, attn_mask, is_causal, scale
    )[0]
    return output if batched else output[0]


def _plain(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, is_causal: bool, scale: float | None
) -> Tensor | None:
    """With a mask that is differentiated (relative positions), which no fused kernel takes."""
    if is_causal or q.shape[:-2] != k.shape[:-2]:
        return None
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return ((q * scale) @ k.mT + mask).softmax(-1) @ v


def _fold(tensor: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """The vmapped dimension and the batch behind it as one batch dimension."""
    if tensor is None:
        return None
    tensor = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor.flatten(0, 1)


def _unfold(outputs: tuple[Tensor, ...], size: int) -> _Rule:
    return tuple(t.unflatten(0, (size, -1)) for t in outputs), (0,) * len(outputs)


class _Attention(torch.autograd.Function):
    """Output and log-sum-exp of the rows; q `[B, H, T, D]`, mask `[B, 1 or H, T, S]` or None."""

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        if q.device.type == "cpu":
            kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            output, rows = kernel(q, k, v, 0.0, is_causal, attn_mask=mask, scale=scale)
            return output, rows
        output = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, scale=scale)
        return output, q.new_empty(len(q))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        q, k, v, mask, ctx.is_causal, ctx.scale = inputs
        ctx.save_for_backward(q, k, v, mask, *output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        grads = _AttentionBackward.apply(g, *saved, ctx.is_causal, ctx.scale)  # type: ignore[no-untyped-call]
        return (*grads, None, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> _Rule:
        tensors = [_fold(t, d, info.batch_size) for t, d in zip(inputs[:4], in_dims, strict=False)]
        outputs = _Attention.apply(*tensors, *inputs[4:])  # type: ignore[no-untyped-call]
        return _unfold(outputs, info.batch_size)


class _AttentionBackward(torch.autograd.Function):
    """Gradients of q, k and v from that of the output."""

    @staticmethod
    def forward(
        g: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        output: Tensor,
        rows: Tensor,
        is_causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if q.device.type == "cpu":
            kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
            args = (g.contiguous(), q, k, v, output, rows, 0.0, is_causal)
            dq, dk, dv = kernel(*args, attn_mask=mask, scale=scale)
            return dq, dk, dv
        with torch.enable_grad():  # the kernels of other devices keep more than rows: run it again
            q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
            output = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, scale=scale)
            dq, dk, dv = torch.autograd.grad(output, (q, k, v), g)
        return dq, dk, dv

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> _Rule:
        tensors = [_fold(t, d, info.batch_size) for t, d in zip(inputs[:7], in_dims, strict=False)]
        outputs = _AttentionBackward.apply(*tensors, *inputs[7:])  # type: ignore[no-untyped-call]
        return _unfold(outputs, info.batch_size)
